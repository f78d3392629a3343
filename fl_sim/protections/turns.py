"""Passes over the noise of every image or every class, between the turns of a surrogate.

What protections with a surrogate share; no protection of its own. Long work goes on where an
interrupted call stopped.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fl_sim.models.surrogate import Batches, Surrogate
from fl_sim.scratch import Checkpoint

PUBLISHED_STEPS = 78  # a pass of class-wise noise, with batches of 128 of 50,000 images
CLASS_SUBSET = 0.2  # share of the images on which class-wise noise is updated
Turn = Callable[[Float[Tensor, "..."]], tuple[Float[Tensor, "..."], bool]]
Stepped = Callable[[Int64[Tensor, " m"], Float[Tensor, "m c h w"]], Float[Tensor, "m c h w"]]


def repeated(
    turn: Turn,
    noise: Float[Tensor, "m c h w"],
    max_passes: int,
    surrogate: Surrogate,
    rng: torch.Generator,
    batches: Batches | None = None,
) -> Float[Tensor, "m c h w"]:
    """Return the noise after so many turns, or fewer.

    Args:
        turn: from noise to better noise, and whether that is good enough.
        noise: of each image or each class, to begin with.
        max_passes: turns at most.
        surrogate, rng, batches: what a turn changes besides the noise.
    """
    checkpoint, first = Checkpoint("turns"), 0
    kept = checkpoint.kept()
    if kept is not None:
        first, noise = surrogate.restore(kept, rng), kept["noise"]
        if batches is not None:
            batches.position = int(kept["position"])
    for number in range(first, max_passes):
        noise, enough = turn(noise)
        if enough:
            break
        if checkpoint.due():
            position = torch.tensor(0 if batches is None else batches.position)
            own = {"noise": noise, "position": position}
            checkpoint.keep({**surrogate.state(number + 1, rng), **own})
    return noise


def in_batches(
    made: Callable[[int, Int64[Tensor, " m"]], Float[Tensor, "m c h w"]],
    num_images: int,
    batch_size: int,
) -> Float[Tensor, "n c h w"]:
    """Return the noise of all images, made by the number and the rows of each batch by itself."""
    checkpoint = Checkpoint("batches")
    kept = checkpoint.kept()
    parts = [] if kept is None else list(kept["noise"].split(batch_size))
    batches = torch.arange(num_images).split(batch_size)
    for number in range(len(parts), len(batches)):
        parts.append(made(number, batches[number]))
        if checkpoint.due():
            checkpoint.keep({"noise": torch.cat(parts)})
    return torch.cat(parts)


def learn(
    surrogate: Surrogate,
    batches: Batches,
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    noise: Float[Tensor, "n c h w"],
    num_steps: int,
) -> None:
    """Let the surrogate take its steps on the noisy images; their sum is not clipped."""
    for _ in range(num_steps):
        rows = batches.next()
        surrogate.step(images[rows] + noise[rows], labels[rows])


def sample_pass(
    noise: Float[Tensor, "n c h w"], batch_size: int, stepped: Stepped
) -> Float[Tensor, "n c h w"]:
    """Return the noise after one turn of every image.

    Args:
        noise: of each image.
        batch_size: images that move together.
        stepped: from the rows of a batch and their noise to where the noise goes.
    """
    batches = torch.arange(len(noise)).split(batch_size)
    return torch.cat([stepped(rows, noise[rows]) for rows in batches])


def class_pass(
    noise: Float[Tensor, "y c h w"],
    labels: Int64[Tensor, " n"],
    batches: tuple[Int64[Tensor, " _"], ...],
    radius: float,
    stepped: Stepped,
) -> Float[Tensor, "y c h w"]:
    """Return the noise of the classes after one turn of every batch.

    Each image moves from its class's noise; a class goes to the mean of its images at once.
    """
    noise = noise.clone()
    for rows in batches:
        own = labels[rows]
        moved = stepped(rows, noise[own])
        present = own.unique()
        sums = torch.zeros_like(noise).index_add_(0, own, moved)
        counts = own.bincount(minlength=len(noise))[present].view(-1, 1, 1, 1)
        noise[present] = (sums[present] / counts).clamp(-radius, radius)
    return noise


def class_subset(
    labels: Int64[Tensor, " n"], batch_size: int, rng: torch.Generator, pass_steps: int = 0
) -> Int64[Tensor, " m"]:
    """Draw the images on which class-wise noise is updated: more where more steps are wanted.

    Of each class that is not among them one image is added: it would have no noise otherwise.
    """
    num_images = len(labels)
    wanted = max(batch_size, round(CLASS_SUBSET * num_images), pass_steps * batch_size)
    order = torch.randperm(num_images, generator=rng)
    subset, others = order[:wanted], order[wanted:]
    left = others[~torch.isin(labels[others], labels[subset])]
    by_class = labels[left].argsort(stable=True)
    sizes = labels[left].unique(return_counts=True)[1]
    return torch.cat([subset, left[by_class[sizes.cumsum(0) - sizes]]])


def shuffled(
    subset: Int64[Tensor, " m"], batch_size: int, rng: torch.Generator, pass_steps: int = 0
) -> tuple[Int64[Tensor, " b"], ...]:
    """Return the subset in new batches, over again until there are as many as are wanted."""
    batches: list[Tensor] = []
    while not batches or len(batches) < pass_steps:
        order = subset[torch.randperm(len(subset), generator=rng)]
        batches += order.split(batch_size)
    return tuple(batches[: max(pass_steps, math.ceil(len(subset) / batch_size))])


def class_advice(
    num_images: int, batch_size: int, pass_steps: int, max_passes: int, step: float
) -> str:
    """Return what to change where class-wise noise has too few steps on so few images, or nothing.

    With a single step a pass, the surrogate learns the images before the noise has grown; and
    noise that cannot reach its radius even in a straight line is weak whatever the images are.

    Args:
        num_images: in all.
        batch_size, pass_steps, max_passes: of the protection.
        step: length of a step, as a share of the radius.
    """
    steps = max(pass_steps, math.ceil(max(1, round(CLASS_SUBSET * num_images) / batch_size)))
    if steps > 1 and steps * max_passes * step > 1 - 1e-6:
        return ""
    plural = "" if steps == 1 else "s"
    return (
        f"pass_steps: class-wise noise of {num_images} images takes {steps} step{plural} a pass "
        f"(published: {PUBLISHED_STEPS}) and will be weak; set pass_steps={PUBLISHED_STEPS}, or "
        "form=sample"
    )


def num_outputs(labels: Int64[Tensor, " n"]) -> int:
    """Return how many classes a surrogate tells apart: at least two.

    With one output there is nothing to learn, no gradient, and no noise, even for an owner all of
    whose images are of class 0.
    """
    return max(2, int(labels.max()) + 1)


def shape_of(images: Float[Tensor, "n c h w"]) -> tuple[int, int, int]:
    """Return channels, height and width."""
    return images.shape[1], images.shape[2], images.shape[3]
