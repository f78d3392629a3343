"""Model inversion with a generative prior: images that represent a class of the model.

Threat model: any client, who holds the global model and images of other classes or sources. It
trains a small generator on those images and searches the generator's latents, so that the results
look like images. They represent a class, not single records.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.contracts import Images, Labels
from fl_sim.core import serialization
from fl_sim.core.device import CPU, computes_on_device, on_device
from fl_sim.core.errors import require, require_above, require_at_least
from fl_sim.core.seeding import generator, seed_torch

Scorer = Callable[[Tensor], Tensor]
SLACK = 1e-4  # keeps the target of the Poincare loss inside the unit ball


class ImageGenerator(nn.Module):
    """Variational auto-encoder with one hidden layer, quick to train on a CPU.

    Source: Kingma and Welling (2014), appendix C.2, https://arxiv.org/abs/1312.6114.
    """

    def __init__(self, shape: tuple[int, int, int], latent: int = 32, hidden: int = 256) -> None:
        super().__init__()
        self.shape, self.latent = shape, latent
        size = shape[0] * shape[1] * shape[2]
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, size), nn.Sigmoid()
        )

    def forward(self, latents: Float[Tensor, "n l"]) -> Images:
        """Return the decoded images, in [0, 1]."""
        images: Tensor = self.decoder(latents)
        return images.view(-1, *self.shape)

    def fit(self, images: Images, epochs: int, seed: int) -> None:
        """Train on images that the attacked model was not trained on."""
        optimiser = torch.optim.Adam(self.parameters(), 1e-3)
        rng = generator(seed, "generator")
        for _ in range(epochs):
            for rows in torch.randperm(len(images), generator=rng).split(64):
                batch = images[rows]
                mean, log_variance = self.encoder(batch).chunk(2, 1)
                noise = torch.randn(mean.shape, generator=rng)
                decoded = self(mean + (log_variance / 2).exp() * noise)
                error = functional.binary_cross_entropy(decoded, batch, reduction="sum")
                divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
                optimiser.zero_grad()
                ((error + divergence) / len(batch)).backward()
                optimiser.step()
        self.eval().requires_grad_(False)


@computes_on_device
def train_generator(
    images: Images, seed: int, epochs: int = 30, latent: int = 32
) -> ImageGenerator:
    """Return a generator trained on the images."""
    with on_device(CPU), seed_torch(seed, "generator"):
        model = ImageGenerator((images.shape[1], images.shape[2], images.shape[3]), latent)
    model.to(images.device).fit(images, epochs, seed)
    return model


@final
@dataclass(frozen=True)
class PriorGuidedInversion:
    """Search a generator's latents for images that the model assigns to a class.

    Latents are sampled, those with the highest confidence are optimised on the Poincare loss
    under random crops, and images that keep a high confidence under harsher crops are selected.

    Source: Struppek et al. (2022), Plug & Play Attacks, sections 3.2 to 3.4,
    https://arxiv.org/abs/2201.12179.

    Attributes:
        samples: Number of latents drawn, for all classes together.
        candidates: Number of latents optimised per class.
        kept: Number of images selected per class.
        steps, learning_rate: Number and size of the optimiser's steps.
        crops: Number of random crops over which the selection averages the confidence.
    """

    samples: int = 2000
    candidates: int = 50
    kept: int = 25
    steps: int = 50
    learning_rate: float = 0.05
    crops: int = 20

    def __post_init__(self) -> None:
        serialization.check_types(self)
        require_at_least(self, 1, "samples", "candidates", "kept", "steps", "crops")
        require_above(self, 0, "learning_rate")
        fits = self.kept <= self.candidates <= self.samples
        allowed = "at least kept and at most samples"
        require(fits, "candidates", allowed, self.candidates)

    @computes_on_device
    def reconstruct(
        self, model: Scorer, prior: ImageGenerator, num_classes: int, seed: int
    ) -> tuple[Float[Tensor, "m c h w"], Int64[Tensor, " m"]]:
        """Return the selected images, in [0, 1], and the class of each.

        Args:
            model: Function from images in [0, 1] to logits, in evaluation mode.
            prior: Trained generator.
            num_classes: Number of outputs of the model, each of which is attacked.
            seed: Seed of latents and crops.
        """
        rng = generator(seed, "inversion")
        labels = torch.arange(num_classes).repeat_interleave(self.candidates)
        latents = self._select_latents(model, prior, num_classes, rng).requires_grad_(True)
        optimiser = torch.optim.Adam([latents], self.learning_rate, betas=(0.1, 0.1))
        for _ in range(self.steps):
            loss = poincare_distance(
                model(crop_randomly(prior(latents), 0.9, 1.0, rng)), labels
            ).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        images = prior(latents.detach())
        confidence = self._mean_confidence(model, images, labels, 0.5, 0.9, rng)
        best = confidence.view(num_classes, -1).topk(self.kept, dim=1).indices
        best = (best + torch.arange(num_classes)[:, None] * self.candidates).flatten()
        return images[best], labels[best]

    @torch.no_grad()
    def _select_latents(
        self, model: Scorer, prior: ImageGenerator, num_classes: int, rng: torch.Generator
    ) -> Float[Tensor, "m l"]:
        """Return the latents with the highest confidence in each class."""
        latents = torch.randn(self.samples, prior.latent, generator=rng)
        confidence = model(prior(latents)).softmax(1)
        best = confidence.topk(self.candidates, dim=0).indices.T[:num_classes]
        return latents[best.flatten()]

    @torch.no_grad()
    def _mean_confidence(
        self,
        model: Scorer,
        images: Float[Tensor, "m c h w"],
        labels: Int64[Tensor, " m"],
        smallest: float,
        largest: float,
        rng: torch.Generator,
    ) -> Float[Tensor, " m"]:
        """Return the mean confidence in the class over random crops."""
        total = torch.zeros(len(images))
        for _ in range(self.crops):
            predicted = model(crop_randomly(images, smallest, largest, rng)).softmax(1)
            total += predicted.gather(1, labels[:, None]).squeeze(1)
        return total / self.crops


def poincare_distance(logits: Float[Tensor, "n y"], labels: Labels) -> Float[Tensor, " n"]:
    """Return the distance of the scaled logits from the class in the Poincare ball.

    Its gradient does not vanish where the model is already confident.

    Source: Struppek et al. (2022), equation 4, https://arxiv.org/abs/2201.12179.
    """
    point = logits / logits.abs().sum(1, keepdim=True).clamp(min=1e-12)
    one_hot = functional.one_hot(labels, logits.shape[1]).to(logits.dtype)
    goal = (one_hot - SLACK).clamp(min=0)
    squared_distance = (point - goal).square().sum(1)
    scale = (1 - point.square().sum(1)) * (1 - goal.square().sum(1))
    return torch.acosh(1 + 2 * squared_distance / scale.clamp(min=1e-12))


def crop_randomly(images: Images, smallest: float, largest: float, rng: torch.Generator) -> Images:
    """Return a random crop of each image, scaled back to the image's size.

    Args:
        images: Batch of images.
        smallest, largest: Bounds of the crop's area, as a share of the image's.
        rng: Generator of the area and position of each crop.
    """
    count = len(images)
    area = smallest + (largest - smallest) * torch.rand(count, generator=rng)
    side = area.sqrt()
    position = (2 * torch.rand(count, 2, generator=rng) - 1) * (1 - side)[:, None]
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = position
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
