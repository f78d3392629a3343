"""The norm of a record's gradient by the head, in closed form: against Opacus, record by record."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fl_sim.attacks.gradient_norm import head_gradient_norm
from fl_sim.core.seeding import generator


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_the_norm_is_that_of_opacus_gradients() -> None:
    opacus = pytest.importorskip("opacus")
    rng = generator(0, "gradient norm")
    features, labels = torch.randn(40, 96, generator=rng), torch.arange(40) % 10
    head = opacus.GradSampleModule(nn.Linear(96, 10), loss_reduction="sum")
    scores = head(features)
    functional.cross_entropy(scores, labels, reduction="sum").backward()
    each = torch.cat([p.grad_sample.flatten(1) for p in head.parameters()], dim=1)
    found = head_gradient_norm(scores.detach(), labels, features)
    torch.testing.assert_close(found, each.norm(dim=1).to(found), rtol=1e-5, atol=0)
