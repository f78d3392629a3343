"""Robustness of the global model, if `Experiment.evaluation` asks for it."""

from collections.abc import Iterator

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.backends.base import Backend
from fl_sim.contracts import Corruption, RoundRecord, Row
from fl_sim.contracts.validity import DIVERGED, invalidate
from fl_sim.core.cache import digest, load_or_compute
from fl_sim.core.device import move, on_device
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator
from fl_sim.core.serialization import hash_own_modules
from fl_sim.countermeasures.adversarial_training import AdversarialTraining
from fl_sim.experiment import Adversarial
from fl_sim.federation.federation import Federation
from fl_sim.metrics.robustness import adversarial_rows, corruption_rows
from fl_sim.models.modes import eval_mode
from fl_sim.models.scoring import BATCH
from fl_sim.rounds.state import State
from fl_sim.rounds.stopping import is_over


def measure_robustness(
    federation: Federation, backend: Backend, state: State, record: RoundRecord
) -> Iterator[Row]:
    """Yield the accuracies on corrupted and attacked test images that are asked for this round."""
    evaluation, round_num = federation.experiment.evaluation, record.round
    corruptions, adversarial = evaluation.corruptions, evaluation.adversarial
    last = is_over(federation.experiment, round_num, state.watched)
    if corruptions is not None and (last or _is_due(corruptions.every, round_num)):
        inputs = {each.name(): compute_corrupted(federation, each) for each in corruptions.build()}
        scores = backend.score(state.parameters, state.buffers, inputs)
        clean = federation.dataset.test_images
        idle = [
            each.name()
            for each in corruptions.build()
            if torch.equal(corrupt_images(federation, each), clean)
        ]
        yield from corruption_rows(round_num, record.test_logits, scores, record.test_labels, idle)
    if adversarial is not None and (last or _is_due(adversarial.every, round_num)):
        backend.trainer.model_tensors.load(state.parameters, state.buffers)
        rows = _attack_images(federation, backend.trainer.model, adversarial, round_num)
        diverged = not bool(torch.isfinite(record.test_logits).all())
        yield from (invalidate(row, DIVERGED) for row in rows) if diverged else rows


def _is_due(every: int | None, round_num: int) -> bool:
    return every is not None and round_num % every == 0


def compute_corrupted(federation: Federation, corruption: Corruption) -> Tensor:
    """Return the inputs of the corrupted test images, cached."""
    return federation.compute_inputs(corrupt_images(federation, corruption))


def corrupt_images(federation: Federation, corruption: Corruption) -> UInt8[Tensor, "t c h w"]:
    """Return the corrupted test images, cached."""
    images, seed = federation.dataset.test_images, federation.experiment.seed
    name, severity = corruption.name(), corruption.severity
    levels = " ".join(filter(None, [repr(corruption.levels), hash_own_modules(corruption)]))

    def compute() -> UInt8[Tensor, "t c h w"]:
        return corruption.apply(images, generator(seed, "corruption", name, severity))

    key = digest(name, severity, levels, seed, images)
    return load_or_compute("corrupted", key, compute)


def choose_images(federation: Federation, num_images: int | None) -> Int64[Tensor, " m"]:
    """Return the test images that are attacked, drawn by the seed."""
    count, seed = len(federation.dataset.test_labels), federation.experiment.seed
    order = torch.randperm(count, generator=generator(seed, "adversarial", "images"))
    return order[:num_images].sort().values


def _attack_images(
    federation: Federation, trained: nn.Module, settings: Adversarial, round_num: int
) -> Iterator[Row]:
    """Yield the rows of an attack on the whole network, frozen front included.

    Only images that are classified correctly are attacked. The attack is made in this process, in
    batches of one size and with generators of their own, so that no engine changes its bits.
    """
    step_size = 2.5 * settings.radius / settings.steps
    attack = AdversarialTraining(settings.radius, settings.attack, settings.steps, step_size)
    chosen = choose_images(federation, settings.num_images)
    dataset, seed = federation.dataset, federation.experiment.seed
    num_right = num_robust = num_masked = 0
    batches = [(dataset.test_images[b], dataset.test_labels[b]) for b in chosen.split(BATCH)]
    with (
        on_device(federation.device),
        eval_mode(nn.Sequential(federation.frozen, trained)) as network,
    ):
        for number, batch in enumerate(batches):
            stored, labels = move(batch, federation.device)
            images = as_pixels(stored)
            with torch.no_grad():
                right = network(images).argmax(1) == labels
            images, labels = images[right], labels[right]
            if not len(labels):
                continue
            targets = functional.one_hot(labels, dataset.num_classes).float()
            rng = generator(seed, "adversarial", number)
            attacked = attack.find_worst(network, images, targets, rng)
            with torch.no_grad():
                num_robust += int((network(attacked).argmax(1) == labels).sum())
            num_right += len(labels)
            num_masked += _count_masked(network, images, labels)
    yield from adversarial_rows(round_num, num_right, num_robust, num_masked, len(chosen))


def _count_masked(network: nn.Module, images: Tensor, labels: Int64[Tensor, " m"]) -> int:
    """Return the number of images at which the gradient of the loss is exactly 0."""
    images = images.clone().requires_grad_(True)
    loss = functional.cross_entropy(network(images), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    return int((gradient.flatten(1) == 0).all(1).sum())
