import numpy as np

from fl_sim.report.grid import build_grid, shorten_path


def test_axes_with_one_value_are_no_axes(make_results, sweep):
    grid = build_grid(make_results(sweep(axes={"rounds": [3], "layout.fraction": [0.0, 0.5]})))
    assert grid.axes == {"layout.fraction": ["0", "0.5"]}
    assert [setting.label for setting in grid.settings] == ["fraction 0", "fraction 0.5"]


def test_a_null_value_is_none(make_results, sweep):
    grid = build_grid(make_results(sweep(axes={"protection": [None, "RandomNoise"]})))
    assert [setting.label for setting in grid.settings] == ["protection none", "RandomNoise"]


def test_settings_that_share_a_run_both_have_its_rows(make_results, sweep):
    results = make_results(sweep(axes={"protection": ["A", "B"]}))
    results.cells["run_id"] = results.cells["run_id"].iloc[0]
    grid = build_grid(results)
    assert all(len(setting.final_rows("accuracy")) == 1 for setting in grid.settings)


def test_numbers_of_the_last_round_only(make_results, sweep):
    results = make_results(sweep(seeds=(0, 1), rounds=4))
    setting = build_grid(results).settings[0]
    assert list(setting.final_rows("accuracy")["round"]) == [4, 4]
    np.testing.assert_allclose(setting.final_rows("accuracy")["value"], results.cells["accuracy"])


def test_names_that_end_alike_are_written_in_full():
    axes = ("client.learning_rate", "protection.learning_rate", "rounds")
    assert shorten_path("client.learning_rate", axes) == "client.learning_rate"
    assert shorten_path("rounds", axes) == "rounds"


def test_nothing_finished(make_results, sweep):
    grid = build_grid(make_results(sweep(broken=lambda settings, seed: True)))
    assert grid.finished == []
    assert grid.settings[0].summary_values("accuracy") == []
    assert grid.settings[0].final_rows("accuracy").empty


def test_labels_tell_fields_of_the_same_name_apart(make_results, sweep):
    axes = {"client.learning_rate": [0.1, 0.2], "protection.learning_rate": [0.1, 0.3]}
    grid = build_grid(make_results(sweep(axes=axes)))
    assert grid.settings[1].label == "client.learning_rate 0.1 · protection.learning_rate 0.3"
    assert grid.heads == list(axes)
