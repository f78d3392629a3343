"""The data dictionary of the results."""

import pytest

from fl_sim.cli.catalogue import list_entries
from fl_sim.results.columns import find_meaning, find_undescribed, list_columns


@pytest.mark.parametrize(
    ("table", "name", "words"),
    [
        ("cells", "accuracy", "test images"),
        ("cells", "leakage.auc", "ROC"),
        ("cells", "leakage.protected_auc", "ROC"),
        ("cells", "leakage.clean_tpr_at_0.001", "true positive rate"),
        ("cells", "leakage.clean_tpr_at_0.001_low", "lower bound"),
        ("cells", "leakage.auc_note", "why it should not be read"),
        ("cells", "fairness.leakage_worst_client", "statistic over clients"),
        ("cells", "settings.client.learning_rate", "axis of the sweep"),
        ("cells", "cost.peak_mib", "MiB"),
        ("cells", "protection.a_clean_best", "control"),
        ("rows", "settings.control", "which control"),
        ("rows", "low", "interval"),
    ],
)
def test_a_column_has_the_expected_meaning(table: str, name: str, words: str) -> None:
    assert words in str(find_meaning(table, name))


def test_columns_without_a_description_are_named() -> None:
    assert find_undescribed("cells", ["seed", "made_up", "leakage.auc"]) == ["made_up"]
    assert find_undescribed("rows", ["seed", "accuracy"]) == ["accuracy"]


def test_every_column_is_listed() -> None:
    assert [entry.name for entry in list_entries("columns")] == [own.name for own in list_columns()]
