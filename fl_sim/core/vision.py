"""torchvision, importable beside a CPU-only build of torch too.

The wheel on PyPI links its operators against CUDA. Beside a CPU-only torch they do not load,
and torchvision then fails at import because two of them were never declared. This project
uses none of them, so declaring the two names is enough.
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
