"""Workloads: each module has a function `list_cases(full)`. A new workload is one new file."""

import importlib
import pkgutil

from benchmarks.cases import Case


def list_all_cases(full: bool) -> list[Case]:
    """Return the cases of every workload, in order; `full` adds the long ones."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return [case for module in modules for case in module.list_cases(full)]
