"""Options of a run: declared once, and a wrong one is refused by name."""

from pathlib import Path
from typing import Any

import pytest

from fl_sim.core.errors import RequestError
from fl_sim.runs.run_options import RunOptions, make_options
from fl_sim.training.faults import Faults


def test_options_are_the_fields_and_a_folder_may_be_text() -> None:
    assert make_options({}) == RunOptions()
    assert make_options({"out": "here", "workers": 2}) == RunOptions(Path("here"), workers=2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"worker": 2},
            "a run has no option 'worker'; did you mean 'workers'?; it has out, engine",
        ),
        ({"cohort": "on"}, "a run has no option 'cohort'; it has .*batch_clients"),
        ({"engine": "flower", "faults": Faults(nan=0.5)}, "--inject works on the engines"),
        ({"ray_address": "auto"}, "--ray-address belongs to --engine ray"),
    ],
)
def test_a_wrong_option_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message.replace("?", r"\?")):
        make_options(given)
