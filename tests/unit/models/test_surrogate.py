"""Surrogates: frozen between steps, of any model, and resumable."""

import pytest
import torch

from fl_sim.contracts import Dataset
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator
from fl_sim.experiment import Model
from fl_sim.models.surrogate import BatchCycle, Surrogate

SHAPE = (1, 8, 8)


def surrogate(model: Model | None = None) -> Surrogate:
    return Surrogate(model or Model(), SHAPE, 10, 0, 0.1)


def flat(own: Surrogate) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in own.model.state_dict().values()])


def test_between_steps_it_is_frozen_and_evaluated(digits: Dataset) -> None:
    own, images = surrogate(), as_pixels(digits.train_images[:20])
    for _ in range(2):
        assert not own.model.training
        assert not any(parameter.requires_grad for parameter in own.model.parameters())
        before = flat(own)
        own.step(images, digits.train_labels[:20])
        assert not torch.equal(flat(own), before)


@pytest.mark.parametrize("tune", ["head", "last_block"])
def test_what_the_model_freezes_stays_frozen(tune: str, digits: Dataset) -> None:
    own = surrogate(Model(tune="head" if tune == "head" else "last_block"))
    trained = {id(parameter) for parameter in own.parameters}
    frozen = [p for p in own.model.parameters() if id(p) not in trained]
    before = [parameter.clone() for parameter in frozen]
    own.step(as_pixels(digits.train_images[:20]), digits.train_labels[:20])
    assert frozen
    assert all(map(torch.equal, before, frozen))


def test_a_restored_state_continues_with_equal_bits(digits: Dataset) -> None:
    images, labels = as_pixels(digits.train_images[:20]), digits.train_labels[:20]
    whole, broken = surrogate(), surrogate()
    for _ in range(4):
        whole.step(images, labels)
    for _ in range(2):
        broken.step(images, labels)
    again = surrogate()
    assert again.load_state_dict(broken.state_dict(2)) == 2
    for _ in range(2):
        again.step(images, labels)
    assert torch.equal(flat(again), flat(whole))


def test_fitting_lowers_the_error(digits: Dataset) -> None:
    own, images = surrogate(), as_pixels(digits.train_images)
    before = own.compute_error(images, digits.train_labels)
    own.fit(images, digits.train_labels, 8, 30, 1, generator(0, "fit"))
    assert own.compute_error(images, digits.train_labels) < before / 2


def test_batches_continue_in_one_order() -> None:
    batches = BatchCycle(10, 4, generator(0, "batches"))
    first = [batches.next() for _ in range(3)]
    assert torch.equal(torch.cat(first).sort().values, torch.arange(10))
    assert [len(rows) for rows in first] == [4, 4, 2]
    assert torch.equal(batches.next(), first[0])
