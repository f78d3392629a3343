"""Cheap type checks at run time: shapes by jaxtyping, everything else by beartype alone.

At every call of every function, jaxtyping opens a scope for axis names and binds the arguments,
which takes ten times as long as the check itself. If no annotation has axes, the scope would be
empty, so the same annotations are checked without it.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped as check_with_axes

check_without_axes = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def has_axes(annotation: Any) -> bool:
    """Return whether an annotation contains an array with axes, or a text that may name one."""
    if isinstance(annotation, list):  # the arguments of a Callable
        return any(map(has_axes, annotation))
    is_array = inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray)
    return is_array or isinstance(annotation, str) or any(map(has_axes, get_args(annotation)))


def check(target: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Do what `jaxtyping.jaxtyped` does with a function, or with a dataclass's constructor."""
    if target is None:
        return partial(check, typechecker=typechecker)
    if inspect.isclass(target):
        if dataclasses.is_dataclass(target) and "__init__" in vars(target):
            target.__init__ = check(target.__init__, typechecker=typechecker)  # type: ignore[misc]
        return target
    if inspect.isfunction(target) and not any(map(has_axes, target.__annotations__.values())):
        return check_without_axes(target)
    return check_with_axes(target, typechecker=typechecker)


jaxtyping.jaxtyped = check  # for modules that are instrumented from now on
