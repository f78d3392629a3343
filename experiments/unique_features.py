"""Does a network remember a mark that one training image carried, however it is trained?

Run:    fl-sim study experiments/unique_features.py

Two networks are trained alike, one with the marked image and one without, and their scores are
subtracted, because a network may favour the letter's shape without having been trained on it. A
third network is the placebo: the same image carries a random patch. Digits, scaled up, are images
of another distribution. For photographs of your own, replace "cifar10" below by "npz" and a path.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.attacks.memorisation import LETTER_A, mark_images, measure_memorisation
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import generator, seed_torch
from fl_sim.data.sources import load_dataset, load_subset


class Images(NamedTuple):
    """Name and path of a dataset, and the number of images to train on."""

    dataset: str
    path: str | None
    count: int


AXES = {
    "images": {
        "grey": Images("fashion_mnist", None, 2000),
        "colour": Images("cifar10", None, 1000),
    },
    "network": ["mlp", "cnn"],
    "training": ["plain", "dropout", "weight decay", "batch norm", "early stopping"],
}
SEEDS = tuple(range(10))

EPOCHS, BATCH, RATE = 30, 64, 1e-3
DECAY, PATIENCE = 1e-2, 3


def measure(seed: int, images: Images, network: str, training: str) -> dict[str, float]:
    """Train with the mark, without it and with a placebo, and compare the reactions to the mark."""
    data = load_subset(images.dataset, images.path, 2 * images.count, 1000)
    pixels, labels = as_pixels(data.train_images), data.train_labels
    carrier = int(torch.randint(0, images.count, (1,), generator=generator(seed, "carrier")))
    original, rng = pixels[carrier : carrier + 1], generator(seed, "placebo")
    patch = torch.randint(0, 2, tuple(LETTER_A.shape), generator=rng).float()
    shown = {
        "mark": mark_images(original),
        "nothing": original,
        "placebo": mark_images(original, patch),
    }
    channels, *size = pixels.shape[1:]
    others = functional.interpolate(as_pixels(load_dataset("digits").train_images), size)
    others = others.expand(-1, channels, -1, -1)
    label = int(labels[carrier])
    score, right = {}, 0.0
    for name, image in shown.items():
        train_images = torch.cat([pixels[:carrier], image, pixels[carrier + 1 :]])
        model = train_network(train_images, labels, network, training, seed)
        score[name] = measure_memorisation(model, others, label, seed)
        if name == "mark":
            right = compute_accuracy(model, as_pixels(data.test_images), data.test_labels)
    plain = score["nothing"]
    return {
        "known_label": score["mark"].known - plain.known,
        "unknown_label": score["mark"].unknown - plain.unknown,
        "remembers": float(score["mark"].known > plain.known),
        "placebo": score["placebo"].known - plain.known,
        "placebo_above_0": float(score["placebo"].known > plain.known),
        "accuracy": right,
    }


@torch.no_grad()
def compute_accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images classified correctly."""
    return float((model(images).argmax(1) == labels).double().mean())


def train_network(
    images: Tensor, labels: Tensor, network: str, training: str, seed: int
) -> nn.Sequential:
    """Train on the first half of the images; the second half is the validation set."""
    with seed_torch(seed, "network"):
        model = NETWORKS[network](*images.shape[1:3], training)
    decay = DECAY if training == "weight decay" else 0.0
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=decay)
    rng, best, best_state, waited = generator(seed, "order"), float("inf"), {}, 0
    half = len(images) // 2
    for epoch in range(EPOCHS):
        model.train()
        with seed_torch(seed, "dropout", epoch):
            for rows in torch.randperm(half, generator=rng).split(BATCH):
                optimiser.zero_grad()
                functional.cross_entropy(model(images[rows]), labels[rows]).backward()
                optimiser.step()
        if training != "early stopping":
            continue
        with torch.no_grad():
            loss = float(functional.cross_entropy(model.eval()(images[half:]), labels[half:]))
        waited = 0 if loss < best else waited + 1
        if loss < best:
            best, best_state = loss, {name: v.clone() for name, v in model.state_dict().items()}
        if waited == PATIENCE:
            break
    if best_state:
        model.load_state_dict(best_state)
    return model.eval()


def build_mlp(channels: int, side: int, training: str) -> nn.Sequential:
    """Return an MLP with hidden layers of 256 and 128 units."""
    size = channels * side * side
    hidden = [
        layer for sizes in ((size, 256), (256, 128)) for layer in build_layer(*sizes, training)
    ]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))


def build_cnn(channels: int, side: int, training: str) -> nn.Sequential:
    """Return a CNN of two convolutions with 8 and 16 channels, and a hidden layer of 64 units."""
    norm = training == "batch norm"
    maps = [
        layer
        for before, after in ((channels, 8), (8, 16))
        for layer in (
            nn.Conv2d(before, after, 3, padding=1),
            nn.BatchNorm2d(after) if norm else nn.Identity(),
            nn.MaxPool2d(2),
            nn.ReLU(),
        )
    ]
    hidden = build_layer(16 * (side // 4) ** 2, 64, training)
    return nn.Sequential(*maps, nn.Flatten(), *hidden, nn.Linear(64, 10))


def build_layer(before: int, after: int, training: str) -> list[nn.Module]:
    """Return a hidden layer with the regularisation that the training uses."""
    norm = nn.BatchNorm1d(after) if training == "batch norm" else nn.Identity()
    drop = nn.Dropout(0.5) if training == "dropout" else nn.Identity()
    return [nn.Linear(before, after), norm, nn.ReLU(), drop]


NETWORKS = {"mlp": build_mlp, "cnn": build_cnn}
