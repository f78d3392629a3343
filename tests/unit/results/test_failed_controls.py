"""A control that fails is named; the runs themselves are complete without it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fl_sim import Data, Experiment, Model, run
from fl_sim.cli.show import show
from fl_sim.data.layout import Layout
from fl_sim.data.partition import Iid
from fl_sim.protections.random_noise import RandomNoise
from strategies.krum import MultiKrum


@pytest.mark.usefixtures("blank_figures")
def test_a_control_with_too_few_clients_for_the_rule_is_named(
    experiment: Callable[..., Experiment],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A_clean trains on the clients without protection alone, which are too few for the rule."""
    wanted = experiment(
        strategy=MultiKrum(num_byzantine=1),
        model=Model("linear"),
        partition=Iid(),
        data=Data(dataset="digits", num_clients=6, num_samples=90, num_test=20),
        protection=RandomNoise(),
        layout=Layout(fraction=0.5, unit="clients"),
        rounds=1,
    )
    results = run(wanted, out=tmp_path)
    assert results.cells.status.tolist() == ["finished"]
    assert results.complete
    (line,) = results.failed_controls
    assert "clean" in line
    assert "at least 5 updates" in line
    show(results)
    assert "a control failed" in capsys.readouterr().err
    page = (results.path / "report.html").read_text()
    assert "1 control FAILED" in page
    assert "at least 5 updates" in page
