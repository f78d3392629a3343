"""Evaluation mode: the folded copy computes the same function, and the network is restored."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from fl_sim.models.architectures import NORMS, resnet18, small_cnn, to_channels_last
from fl_sim.models.modes import eval_mode, fold_batch_norms

NETWORKS = {"small_cnn": small_cnn, "resnet18": resnet18}


def seasoned(name: str, norm: str) -> nn.Sequential:
    """Return a network with non-trivial batch statistics, some of negative scale."""
    torch.manual_seed(0)
    network = to_channels_last(NETWORKS[name]((1, 28, 28), 10, norm))
    for stage in network.modules():
        if isinstance(stage, nn.BatchNorm2d):
            stage.running_mean.normal_()
            stage.running_var.uniform_(0.5, 2)
            nn.init.uniform_(stage.weight, -1, 1)
            nn.init.normal_(stage.bias)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("norm", NORMS)
def test_the_folded_network_has_the_same_values_and_gradients(name: str, norm: str) -> None:
    """Compare in float64, in which rounding does not flip a ReLU."""
    network = seasoned(name, norm).double()
    images = torch.rand(4, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    found = []
    for asked in (network, fold_batch_norms(network)):
        scores = asked(images)
        found.append((scores, *torch.autograd.grad(scores.square().sum(), images)))
    (scores, slope), (own, own_slope) = found
    assert torch.dist(own, scores) <= 1e-10 * scores.norm()
    assert torch.dist(own_slope, slope) <= 1e-10 * slope.norm()


def test_folding_leaves_the_network_as_it_was() -> None:
    network = seasoned("small_cnn", "batch")
    before, stages = deepcopy(network.state_dict()), [type(stage) for stage in network]
    twin = fold_batch_norms(network)
    assert not any(isinstance(stage, nn.BatchNorm2d) for stage in twin.modules())
    assert [type(stage) for stage in network] == stages
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert twin[-1] is not network[-1]
    assert twin[-1].weight is network[-1].weight


def test_the_network_is_frozen_within_the_block_and_restored_after_it() -> None:
    network = small_cnn((1, 28, 28), 10, "batch").train()
    with eval_mode(network) as still:
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert not any(parameter.requires_grad for parameter in still.parameters())
    assert all(stage.training for stage in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
