"""Under test, every function of ours checks the types and the shapes that it declares."""

import pytest
import torch
from jaxtyping import TypeCheckError

from fl_sim.contracts import RoundContext
from fl_sim.core import plugins
from fl_sim.core.seeding import generator
from fl_sim.data.layout import Layout
from strategies.median import CoordinateMedian


def test_arguments_without_axes_are_checked() -> None:
    with pytest.raises(TypeCheckError, match="seed"):
        generator("1")
    with pytest.raises(TypeCheckError, match="unit"):
        Layout(unit=5)


def test_what_is_returned_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "find_paragraph", lambda text, opening: 5)
    with pytest.raises(TypeCheckError, match="return"):
        plugins.paragraph_of(Layout, "Source:")


def test_methods_of_all_kinds_are_checked() -> None:
    with pytest.raises(TypeCheckError, match="count"):
        RoundContext.anonymous("three")


def test_axes_of_arguments_have_to_agree() -> None:
    rule = CoordinateMedian()
    rule.aggregate(None, torch.zeros(3, 2), torch.ones(3))
    with pytest.raises(TypeCheckError):
        rule.aggregate(None, torch.zeros(3, 2), torch.ones(4))
