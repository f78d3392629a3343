"""Calibration of the global model, and its accuracy on corrupted and attacked test images."""

from fl_sim.report.components import Section
from fl_sim.report.formats import AREA, PERCENT
from fl_sim.report.grid import Grid
from fl_sim.report.setting_tables import Column, build_metric_table, has_values

ROBUSTNESS: tuple[Column, ...] = (
    ("calibration error, points", "calibration_error", "all", PERCENT),
    ("Brier score", "brier_score", "all", AREA),
    ("corrupted, %", "corruption_mean_accuracy", "all", PERCENT),
    ("lost to corruption, %", "corruption_drop", "all", PERCENT),
    ("attacked, %", "adversarial_accuracy", "all", PERCENT),
    ("lost to attack, points", "adversarial_drop", "all", PERCENT),
)


def describe_measures(grid: Grid) -> list[str]:
    """Return the settings of corruptions and attacks on test images, in words."""
    lines: dict[str, None] = {}
    for setting in grid.finished:
        evaluation = setting.experiment.get("evaluation") or {}
        corruptions, attack = (evaluation.get(name) for name in ("corruptions", "adversarial"))
        if corruptions:
            names = ", ".join(corruptions["names"]) or "all corruptions"
            lines[f"{names} at severity {corruptions['severity']}"] = None
        if attack:
            count = attack["num_images"]
            images = "all test images" if count is None else f"{count} test images"
            words = f"{attack['attack'].upper()} of {attack['steps']} steps on {images}"
            lines[f"{words}, within {255 * attack['radius']:.3g}/255 of each pixel"] = None
    return list(lines)


def build_robustness(grid: Grid) -> Section | None:
    """Return calibration and robustness per setting, and the accuracy under each corruption."""
    if not has_values(grid, ROBUSTNESS):
        return None
    paragraphs: tuple[str, ...] = (
        "After the last round, on the test images. Corrupted: mean accuracy over the common "
        "corruptions, of which the share of the clean accuracy is lost. Attacked: accuracy after "
        "an attack with the gradients of the whole network. On few images the calibration error "
        "is biased upwards.",
    )
    measured = describe_measures(grid)
    if measured:
        paragraphs += (f"Measured by: {'; '.join(measured)}.",)
    components = [build_metric_table(grid, "Calibration and robustness", ROBUSTNESS)]
    tables = [setting.rows for setting in grid.finished]
    names = {
        str(name)
        for rows in tables
        for name in rows.loc[rows.metric == "corruption_accuracy", "group"].unique()
    }
    columns = [
        (f"{name.replace('_', ' ')}, %", "corruption_accuracy", name, PERCENT)
        for name in sorted(names)
    ]
    if columns:
        components.append(build_metric_table(grid, "Accuracy by corruption", columns))
    return Section("robustness", "Calibration and robustness", paragraphs, tuple(components))
