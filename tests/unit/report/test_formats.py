import math

import pytest

from fl_sim.report import formats
from fl_sim.report.formats import (
    AREA,
    COUNT,
    PERCENT,
    POINTS,
    RATIO,
    format_interval,
    format_number,
    format_over_seeds,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (0.12345, PERCENT, "12.3"),
        (-0.0001, POINTS, "0.0"),
        (0.01, POINTS, "+1.0"),
        (105866.0, COUNT, "105,866"),
        (NAN, AREA, "-"),
    ],
)
def test_number(value, form, text):
    assert format_number(value, form) == text


def test_over_seeds_says_how_many_are_defined():
    assert format_over_seeds([0.5, 0.7, NAN], RATIO) == "0.60 ± 0.14 (2/3)"
    assert format_over_seeds([NAN, NAN], RATIO) == "-"
    assert format_over_seeds([], RATIO) == "-"
    assert format_over_seeds([0.5], RATIO) == "0.50"


def test_spread_is_the_sample_standard_deviation():
    assert formats.spread([1.0, 3.0]) == pytest.approx(math.sqrt(2))
    assert math.isnan(formats.spread([1.0]))


def test_an_interval_needs_both_ends():
    assert format_interval(0.4, 0.6, AREA) == "[0.400, 0.600]"
    assert format_interval(NAN, 0.6, AREA) == ""


def test_only_radii_are_written_in_pixels():
    assert formats.format_value(0.2, "layout.fraction") == "0.2"
    assert formats.format_value(8 / 255, "protection.radius") == "8/255"
    assert formats.format_value(1 / 3, "partition.alpha") == "0.333333"
