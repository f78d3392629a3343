"""Labels, units and number formats of quantities."""

from typing import NamedTuple

from fl_sim.report.formats import (
    AREA,
    COUNT,
    INDEX,
    MEBIBYTES,
    MEGABYTES,
    PERCENT,
    RATE,
    RATIO,
    SECONDS,
    NumberFormat,
)


class Display(NamedTuple):
    """Display of a quantity: label, format, and unit."""

    label: str
    form: NumberFormat
    unit: str = ""

    @property
    def heading(self) -> str:
        """The label with the unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


DISPLAYS = {
    "accuracy": Display("accuracy", PERCENT, "%"),
    "best_accuracy": Display("best accuracy", PERCENT, "%"),
    "rounds_to_target": Display("rounds to target", SECONDS),
    "fairness_worst_client": Display("worst client", PERCENT, "%"),
    "fairness_worst_10_percent": Display("worst 10 % of clients", PERCENT, "%"),
    "fairness_spread": Display("spread over clients", PERCENT, "points"),
    "mia_margin_auc": Display("membership AUC", AREA),
    "mia_margin_tpr_at_0.01": Display("membership TPR at 1 % FPR", RATE, "%"),
    "attack_success": Display("attack success", PERCENT, "%"),
    "backdoor.half_life": Display("backdoor half-life, rounds", SECONDS),
    "corruption_mean_accuracy": Display("accuracy under corruptions", PERCENT, "%"),
    "adversarial_accuracy": Display("adversarial accuracy", PERCENT, "%"),
    "calibration_error": Display("calibration error", PERCENT, "%"),
    "brier_score": Display("Brier score", AREA),
    "cost.bytes": Display("MB up and down", MEGABYTES),
    "cost.bytes_up": Display("MB up", MEGABYTES),
    "cost.bytes_down": Display("MB down", MEGABYTES),
    "cost.download_once": Display("MB once a client", MEGABYTES),
    "cost.cpu_seconds": Display("CPU seconds", RATIO),
    "cost.seconds": Display("clock seconds", RATIO),
    "cost.peak_mib": Display("peak MiB", MEBIBYTES),
    "num_parameters": Display("values trained or sent", COUNT),
}


def describe_quantity(name: str) -> Display:
    """Return the display of a quantity by full name; others have four decimals.

    >>> describe_quantity("cost.bytes").heading, describe_quantity("fairness_jain").label
    ('MB up and down', 'fairness jain')
    """
    return DISPLAYS.get(name, Display(name.replace("_", " "), INDEX))
