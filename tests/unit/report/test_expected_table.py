"""Tables of expected files: their columns, their legend, and how long ones are folded."""

from typing import Any

from fl_sim.report.expected import NUMBERS
from fl_sim.report.expected_table import render_table


def content(*entries: tuple[dict[str, Any], str, float]) -> dict[str, Any]:
    numbers = [
        {"settings": settings, "number": name, "mean": mean, "spread": 0.01}
        for settings, name, mean in entries
    ]
    return {
        "numbers": numbers,
        "seeds": [0, 1, 2],
        "hardware": "a machine",
        "minutes": 4,
        "command": "fl-sim sweep experiments/x.py",
    }


def test_columns_that_say_nothing_are_left_out() -> None:
    """A_all is the accuracy once more, the gap is 0; epsilon is no share."""
    table = render_table(
        content(
            ({"noise": 0.5}, "accuracy", 0.5),
            ({"noise": 0.5}, "protection.a_all", 0.5),
            ({"noise": 0.5}, "protection.utility_gap", 0.0),
            ({"noise": 0.5}, "epsilon.images", 12.0),
            ({"noise": 1.0}, "accuracy", 0.4),
            ({"noise": 1.0}, "protection.a_all", 0.4),
        ),
        NUMBERS,
    )
    assert table.splitlines()[:4] == [
        "| noise | A_mix | ε of images |",
        "|---|---|---|",
        "| 0.5 | 50.0 ± 1.0 | 12.0 ± 0.0 |",
        "| 1.0 | 40.0 ± 1.0 | - |",
    ]


def test_the_legend_explains_the_columns_that_are_there() -> None:
    table = render_table(content(({"noise": 0.5}, "accuracy", 0.5)), NUMBERS)
    assert table.splitlines()[-1] == (
        "Mean ± sample standard deviation over 3 seeds. A_mix: test accuracy in percent."
    )


def test_a_file_can_name_its_columns() -> None:
    entries = [({"noise": 0.5}, n, 0.5) for n in ("accuracy", "leakage.auc", "rule.attacker_share")]
    named = content(*entries) | {"columns": ["rule.attacker_share", "accuracy"]}
    lines = render_table(named, NUMBERS).splitlines()
    assert lines[0] == "| noise | attacker share | A_mix |"
    assert lines[2] == "| 0.5 | 0.50 ± 0.01 | 50.0 ± 1.0 |"
    assert "attacker share" not in render_table(content(*entries), NUMBERS)


def test_many_settings_of_two_axes_are_crossed() -> None:
    entries = []
    for place, noise in enumerate(("EM", "LSP")):
        for number in range(10):
            settings = {"noise": noise, "against": f"filter {number}"}
            entries.append((settings, "accuracy", 0.1 * place + 0.01 * number))
            entries.append((settings, "protection.a_all", 0.8 + 0.01 * number))
    lines = render_table(content(*entries), NUMBERS).splitlines()
    assert lines[0] == "| A_mix | EM | LSP | A_all |"
    assert lines[-3] == "| filter 9 | 9.0 ± 1.0 | 19.0 ± 1.0 | 89.0 ± 1.0 |"
    assert lines[-1].startswith("Mean ± sample standard deviation over 3 seeds. A_mix: ")


def test_settings_whose_bound_depends_on_both_axes_are_listed() -> None:
    entries = []
    for place, noise in enumerate(("EM", "EM, fewer images")):
        for number in range(10):
            settings = {"noise": noise, "against": f"filter {number}"}
            entries.append((settings, "accuracy", 0.1))
            entries.append((settings, "protection.a_all", 0.8 + 0.01 * place))
    lines = render_table(content(*entries), NUMBERS).splitlines()
    assert lines[0] == "| noise | against | A_mix | A_all |"
    assert lines[2] == "| EM | filter 0 | 10.0 ± 1.0 | 80.0 ± 1.0 |"
    assert lines[21] == "| EM, fewer images | filter 9 | 10.0 ± 1.0 | 81.0 ± 1.0 |"
