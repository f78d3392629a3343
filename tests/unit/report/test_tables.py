from typing import NamedTuple

import pandas as pd
import pytest
from rich.console import Console

from fl_sim.report import tables

AXES = {"layout.fraction": [0.0, 0.5, 1.0], "strategy": ["FedAvg", "Krum(num_byzantine=1)"]}


def printed(table, width=110):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def column(table, name):
    return next(list(own.cells) for own in table.columns if str(own.header).startswith(name))


@pytest.mark.parametrize("width", [80, 110])
def test_means_and_spreads_agree_with_pandas(make_results, sweep, width):
    results = make_results(sweep(axes=AXES, seeds=(0, 1, 2)))
    table = tables.build_summary_table(results)
    by_setting = results.cells.groupby(
        ["settings.layout.fraction", "settings.strategy"], sort=False
    )["accuracy"]
    shown = [str(text).lstrip("≈") for text in column(table, "A_mix")]
    wanted = [
        # a spread of two digits before the point leaves none after it
        f"{100 * mean:.{int(spread < 0.1)}f}\n±{100 * spread:.{int(spread < 0.1)}f}"
        for mean, spread in zip(by_setting.mean(), by_setting.std(), strict=True)
    ]
    assert shown == wanted
    text = printed(table, width)
    assert all(line in text for words in wanted for line in words.split("\n"))
    assert "…" not in text


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_gets_every_column_below_the_names_again(make_results, sweep, width):
    table = tables.build_summary_table(make_results(sweep(axes=AXES, seeds=(0, 1, 2))))
    wide, narrow = printed(table, 400), printed(table, width)
    assert max(map(len, narrow.splitlines())) <= width
    assert {*wide.replace("─", "").split()} == {*narrow.replace("─", "").split()}
    for own in table.columns[1:]:
        for line in str(next(iter(own.cells))).split("\n"):
            assert line in narrow
    if width == 40:
        assert narrow.count("settings") > wide.count("settings")


def test_equal_accuracies_of_runs_without_protection_are_one_column(make_results, sweep):
    results = make_results(sweep(axes={"strategy": ["FedAvg", "Krum"]}))
    same = results.cells["accuracy"]
    names = ("protection.a_all", "protection.a_clean")
    cells = results.cells.assign(**dict.fromkeys(names, same))
    cells["cost.bytes_down"] = 3 * cells["cost.bytes_up"]
    own = type(results)(results.path, results.rows, cells, results.failures, results.complete)
    heads = [str(c.header).split("\n")[0] for c in tables.build_summary_table(own).columns]
    assert "A_mix" in heads
    assert not {"A_all", "A_clean", "added"} & set(heads)
    assert "MB down" in heads


def test_what_is_added_and_ratio_stand_beside_the_three_accuracies(make_results, sweep):
    results = make_results(sweep(axes={"layout.fraction": [0.5]}))
    table = tables.build_summary_table(results)
    mix = results.cells["accuracy"].iloc[0]
    assert [str(text) for text in column(table, "A_all")] == ["80.0"]
    assert [str(text) for text in column(table, "A_clean")] == ["60.0"]
    assert [str(text) for text in column(table, "added")] == [f"{100 * (mix - 0.6):+.1f}"]
    assert [str(text) for text in column(table, "ratio")] == [f"{(mix - 0.6) / 0.2:.2f}"]


def test_undefined_controls_are_dashes(make_results, sweep):
    table = tables.build_summary_table(make_results(sweep(axes={"layout.fraction": [0.5, 1.0]})))
    assert str(column(table, "A_clean")[1]) == "-"
    assert str(column(table, "added")[1]) == "-"


def test_one_run_without_axes_has_its_name_and_no_spread(make_results, sweep):
    text = printed(tables.build_summary_table(make_results(sweep())))
    assert "one seed, no spread" in text
    assert "toy" in text
    assert "±" not in text
    assert "lost\n" not in text


def test_failed_runs_stay_visible_with_their_error(make_results, sweep):
    results = make_results(
        sweep(
            axes={"strategy": ["FedAvg", "Bulyan"]},
            seeds=(0, 1),
            broken=lambda settings, seed: settings["strategy"] == "Bulyan" or seed == 1,
        )
    )
    table = tables.build_summary_table(results)
    assert [str(text).split("\n")[-1] for text in column(table, "A_mix")] == [
        "1 failed",
        "2 failed",
    ]
    assert "failed: Bulyan, seed 0: RunFailed: [no] <updates>" in printed(table, 200)


def test_lost_clients_are_counted(make_results, sweep):
    lost = ({"round": 1, "client": 2, "cause": "NaN"}, {"round": 2, "client": 2, "cause": "NaN"})
    table = tables.build_summary_table(make_results(sweep(seeds=(0, 1), lost=lost)))
    assert [str(text) for text in column(table, "lost")] == ["4"]


def test_notes_of_an_audit_stand_once_below_the_table_with_a_number():
    many = "63 of 128 records left out, which the attack cannot tell"
    few = "64 non-members, of 300 that are needed"
    rows = [
        ("loss", "auc", 0.5, True, ""),
        ("loss", "tpr_at_0.01", 0.0, False, few),
        ("LiRA", "auc", 0.6, True, many),
        ("LiRA", "tpr_at_0.01", 0.1, False, few),
        ("RMIA", "auc", 0.6, True, many),
    ]
    names = ["attack", "metric", "value", "valid", "note"]
    findings = pd.DataFrame(rows, columns=names).assign(group="all", client=-1, low=0.0, high=1.0)
    table = tables.build_audit_table("FedAvg · runs/x", findings)
    text = printed(table, 80)
    assert text.count("63 of 128") == text.count("64 non-members") == 1
    assert "10.00 [0.00, 100.00] *1" in text
    assert [str(c).rpartition(" ")[2] for c in column(table, "AUC")] == ["1.000]", "*2", "*2"]


def test_listing_shows_every_entry_as_it_is():
    class Entry(NamedTuple):
        name: str
        text: str
        source: str

    text = printed(
        tables.build_listing([Entry("Krum", "Picks [one] update.", "https://arxiv.org/x")])
    )
    assert "Krum" in text
    assert "Picks [one] update." in text
