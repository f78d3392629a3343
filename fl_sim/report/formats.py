"""Numbers in words: the same way in every table, figure and sentence."""

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
    """How a kind of number is written: after scaling, with so many decimals."""

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
MEGABYTES = NumberFormat(1e-6, 2)
MEBIBYTES = NumberFormat(decimals=0)


def drop_undefined(values: Sequence[float]) -> list[float]:
    """Return the values that are numbers."""
    return [value for value in values if not math.isnan(value)]


def mean(values: Sequence[float]) -> float:
    """Return the mean of the defined values, NaN where there are none."""
    there = drop_undefined(values)
    return fmean(there) if there else float("nan")


def spread(values: Sequence[float]) -> float:
    """Return the sample standard deviation of the defined values, NaN below two of them."""
    there = drop_undefined(values)
    return stdev(there) if len(there) > 1 else float("nan")


def format_number(value: float, form: NumberFormat) -> str:
    """Return one number in words.

    >>> number(0.8045, PERCENT), number(-0.012, POINTS), number(float("nan"), AREA)
    ('80.5', '-1.2', '-')
    """
    if math.isnan(value):
        return UNDEFINED
    rounded = round(value * form.scale, form.decimals)
    sign = "+" if form.signed and rounded else ""
    # adding zero turns -0.0, which looks like a finding, into 0.0
    return f"{rounded + 0.0:{sign},.{form.decimals}f}"


def format_over_seeds(values: Sequence[float], form: NumberFormat) -> str:
    """Return mean and spread over seeds; how many seeds, where some have no value.

    >>> over_seeds([0.78, 0.80], PERCENT)
    '79.0 ± 1.4'
    >>> over_seeds([0.5, float("nan")], RATIO)
    '0.50 (1/2)'
    """
    there = drop_undefined(values)
    text = format_number(mean(there), form)
    if len(there) > 1:
        text += f" ± {format_number(spread(there), form._replace(signed=False))}"
    return f"{text} ({len(there)}/{len(values)})" if 0 < len(there) < len(values) else text


def format_interval(low: float, high: float, form: NumberFormat) -> str:
    """Return an interval in words, or nothing where there is none."""
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{format_number(low, form)}, {format_number(high, form)}]"


def format_value(thing: object, field: str = "") -> str:
    """Return the value of a field in words: radii as n/255, whole numbers without a point.

    >>> value(16 / 255, "protection.radius"), value(0.2), value(3.0), value(None)
    ('16/255', '0.2', '3', 'none')
    """
    if thing is None or thing != thing:
        return "none"
    if isinstance(thing, bool):
        return "yes" if thing else "no"
    if not isinstance(thing, float):
        return str(thing)
    if thing.is_integer():
        return str(int(thing))
    in_pixels = field.split(".")[-1] in IN_PIXELS and (thing * 255).is_integer()
    return f"{round(thing * 255)}/255" if in_pixels else f"{thing:g}"


def format_count(number_of: int, noun: str) -> str:
    """Return a count with its noun.

    >>> count(1, "seed"), count(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number_of} {noun}" if number_of == 1 else f"{number_of} {noun}s"


def format_dataset(name: str) -> str:
    """Return a dataset's name as people write it."""
    return DATASETS.get(name, name)
