"""Types of Flower, which are recognised without importing it: that takes a second."""

import sys
from abc import ABC
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp as ClientApp
    from flwr.serverapp.strategy import Strategy as Strategy
else:

    class _FlowerType(ABC):  # noqa: B024
        """A class that stands for one of Flower's, as base class of it and of its subclasses.

        There are no objects of Flower's before Flower is imported, so that no others can be meant.
        """

        module = ""

        @classmethod
        def __subclasshook__(cls, other: type) -> Any:
            flower = getattr(sys.modules.get(cls.module), cls.__name__, None)
            return True if flower is not None and issubclass(other, flower) else NotImplemented

    class ClientApp(_FlowerType):
        """The clients' side of a Flower App."""

        module = "flwr.clientapp"

    class Strategy(_FlowerType):
        """A strategy of Flower's."""

        module = "flwr.serverapp.strategy"
