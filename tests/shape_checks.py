"""Cheap type checks at run time: those of jaxtyping and beartype, made at a function's first call.

To check a function, jaxtyping compiles three others when it is defined, and at every call it binds
the arguments anew, which takes ten times as long as the check itself. Most functions are not called
in a process of the tests. So nothing is compiled before the first call, and then beartype alone
checks the same annotations, in a scope for axis names only if an annotation can have axes.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import jaxtyped as check_and_bind

check_types = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))
scope_of_axes = check_and_bind("context")
checked_functions: dict[Callable[..., Any], Callable[..., Any]] = {}  # by those without checks


def has_axes(annotation: Any) -> bool:
    """Return whether an annotation contains an array with axes."""
    if isinstance(annotation, list):  # the arguments of a Callable
        return any(map(has_axes, annotation))
    is_array = inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray)
    return is_array or any(map(has_axes, get_args(annotation)))


def is_text(annotation: Any) -> bool:
    """Return whether an annotation contains a text, which may name something not there yet."""
    if isinstance(annotation, list):
        return any(map(is_text, annotation))
    return isinstance(annotation, str) or any(map(is_text, get_args(annotation)))


def add_checks(function: Callable[..., Any], typechecker: Callable[[Any], Any]) -> Any:
    """Return the function with checks of its arguments and of what it returns."""
    annotations = function.__annotations__.values()
    arrays = any(map(has_axes, annotations))
    if any(map(is_text, annotations)) or (arrays and inspect.isgeneratorfunction(function)):
        return check_and_bind(function, typechecker=typechecker)
    checked = check_types(function)
    if not arrays:
        return checked

    def call(*arguments: Any, **named: Any) -> Any:
        with scope_of_axes:
            return checked(*arguments, **named)

    return call


def check(target: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    """Do what `jaxtyping.jaxtyped` does with a function, or with a dataclass's constructor."""
    if target is None:
        return partial(check, typechecker=typechecker)
    if inspect.isclass(target):
        if dataclasses.is_dataclass(target) and "__init__" in vars(target):
            target.__init__ = check(target.__init__, typechecker=typechecker)  # type: ignore[misc]
        return target
    if not inspect.isfunction(target):
        return check_and_bind(target, typechecker=typechecker)

    @wraps(target)
    def call(*arguments: Any, **named: Any) -> Any:
        checked = checked_functions.get(target)
        if checked is None:
            checked = checked_functions[target] = add_checks(target, typechecker)
        return checked(*arguments, **named)

    return call


jaxtyping.jaxtyped = check  # for modules that are instrumented from now on
