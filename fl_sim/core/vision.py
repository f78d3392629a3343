"""Imports torchvision, also with a CPU-only build of torch.

The wheel on PyPI links its operators against CUDA. With a CPU-only torch they do not load, and
torchvision fails at import because two of them are undeclared. This project uses neither, so
declaring their names is enough.
"""

import torch

try:
    import torchvision
except RuntimeError:
    _OPERATORS = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _OPERATORS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
