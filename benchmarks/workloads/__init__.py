"""Workloads: each module has a function `list_cases(full)`, or `list_gpu_cases()`, or both.

A new workload is one new file.
"""

import importlib
import pkgutil
from typing import Any

from benchmarks.cases import Case


def list_all_cases(full: bool) -> list[Case]:
    """Return the cases of every workload, in order; `full` adds the long ones."""
    modules = _list_modules("list_cases")
    return [case for module in modules for case in module.list_cases(full)]


def list_all_gpu_cases() -> list[Case]:
    """Return the cases of every workload that is measured on a GPU, in order."""
    modules = _list_modules("list_gpu_cases")
    return [case for module in modules for case in module.list_gpu_cases()]


def _list_modules(function: str) -> list[Any]:
    """Return the modules of workloads that have a function."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, function)]
