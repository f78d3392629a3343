"""Formats numbers the same way in every table, figure and sentence."""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

UNDEFINED = "-"
IN_PIXELS = ("radius", "step_size")  # fields that papers give as n/255
DATASETS = {
    "fashion_mnist": "Fashion-MNIST",
    "digits": "Digits",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}


class NumberFormat(NamedTuple):
    """Format of a number: factor, decimals, and whether positive numbers have a sign."""

    scale: float = 1.0
    decimals: int = 1
    signed: bool = False


PERCENT = NumberFormat(100)
RATE = NumberFormat(100, 2)
POINTS = NumberFormat(100, signed=True)
RATIO = NumberFormat(decimals=2)
SQUARED = NumberFormat()
AREA = NumberFormat(decimals=3)
SIGNED_AREA = NumberFormat(decimals=3, signed=True)
INDEX = NumberFormat(decimals=4)
COUNT = NumberFormat(decimals=0)
SECONDS = NumberFormat(decimals=1)
CPU_SECONDS = NumberFormat(decimals=2)  # a solved head takes some hundredths
MEGABYTES = NumberFormat(1e-6, 2)
MEBIBYTES = NumberFormat(decimals=0)


def drop_undefined(values: Sequence[float]) -> list[float]:
    """Return the values that are not NaN."""
    return [value for value in values if not math.isnan(value)]


def mean(values: Sequence[float]) -> float:
    """Return the mean of the defined values, or NaN if there are none."""
    known = drop_undefined(values)
    return fmean(known) if known else float("nan")


def spread(values: Sequence[float]) -> float:
    """Return the sample standard deviation of the defined values, or NaN for fewer than two."""
    known = drop_undefined(values)
    return stdev(known) if len(known) > 1 else float("nan")


def format_number(value: float, form: NumberFormat) -> str:
    """Return a number as text, or a dash for NaN.

    >>> format_number(0.8045, PERCENT), format_number(-0.012, POINTS)
    ('80.5', '-1.2')
    >>> format_number(float("nan"), AREA)
    '-'
    """
    if math.isnan(value):
        return UNDEFINED
    rounded = round(value * form.scale, form.decimals)
    sign = "+" if form.signed and rounded else ""
    # adding zero turns -0.0 into 0.0
    return f"{rounded + 0.0:{sign},.{form.decimals}f}"


def format_over_seeds(values: Sequence[float], form: NumberFormat) -> str:
    """Return mean and spread over seeds, with the number of seeds if some have no value.

    >>> format_over_seeds([0.78, 0.80], PERCENT)
    '79.0 ± 1.4'
    >>> format_over_seeds([0.5, float("nan")], RATIO)
    '0.50 (1/2)'

    The spread has at most two digits that count, and the mean no more decimals than it.

    >>> format_over_seeds([0.50, 0.80], PERCENT)
    '65 ± 21'
    """
    known = drop_undefined(values)
    form = _round_to_spread(form, spread(known))
    text = format_number(mean(known), form)
    if len(known) > 1:
        text += f" ± {format_number(spread(known), form._replace(signed=False))}"
    return f"{text} ({len(known)}/{len(values)})" if 0 < len(known) < len(values) else text


def _round_to_spread(form: NumberFormat, width: float) -> NumberFormat:
    """Return the format with fewer decimals, where a spread's two leading digits need fewer."""
    if math.isnan(width) or width == 0:
        return form
    needed = 1 - math.floor(math.log10(width * form.scale))
    return form._replace(decimals=max(0, min(form.decimals, needed)))


def format_interval(low: float, high: float, form: NumberFormat) -> str:
    """Return an interval as text, or an empty string if there is none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{format_number(low, form)}, {format_number(high, form)}]"


def format_value(value: object, field: str = "") -> str:
    """Return the value of a field as text: radii as n/255, whole numbers without a point.

    >>> format_value(16 / 255, "protection.radius"), format_value(0.2)
    ('16/255', '0.2')
    >>> format_value(3.0), format_value(None)
    ('3', 'none')
    """
    if value is None or value != value:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if value.is_integer():
        return str(int(value))
    in_pixels = field.split(".")[-1] in IN_PIXELS and (value * 255).is_integer()
    return f"{round(value * 255)}/255" if in_pixels else f"{value:g}"


def format_count(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> format_count(1, "seed"), format_count(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def format_dataset(name: str) -> str:
    """Return the name of a dataset in its usual spelling."""
    return DATASETS.get(name, name)
