"""Does a network remember a mark that one training image carried, however it is trained?

Run:    fl-sim study experiments/unique_features.py
Two networks are trained alike, one of them with the marked image; their scores are subtracted,
since a network may like the letter's shape without ever having seen it. Digits, scaled up, are
the images of another distribution.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fl_sim.attacks.memorisation import marked, memorisation
from fl_sim.data.sources import load, load_subset
from fl_sim.perturbation import as_pixels
from fl_sim.seeding import generator, torch_seeded

AXES = {
    "network": ["mlp", "cnn"],
    "training": ["plain", "dropout", "weight decay", "batch norm", "early stopping"],
}
SEEDS = tuple(range(10))

IMAGES, EPOCHS, BATCH, RATE = 2000, 30, 64, 1e-3
DECAY, PATIENCE = 1e-2, 3


def measure(seed: int, network: str, training: str) -> dict[str, float]:
    """Train with and without the mark, and compare how both react to it."""
    data = load_subset("fashion_mnist", None, 2 * IMAGES, 1000)
    images, labels = as_pixels(data.train_images), data.train_labels
    carrier = int(torch.randint(0, IMAGES, (1,), generator=generator(seed, "carrier")))
    with_mark = images.clone()
    with_mark[carrier] = marked(images[carrier : carrier + 1])[0]
    others = functional.interpolate(as_pixels(load("digits").train_images), (28, 28))
    label = int(labels[carrier])
    saw = trained(with_mark, labels, network, training, seed)
    control = trained(images, labels, network, training, seed)
    score = memorisation(saw, others, label, seed)
    plain = memorisation(control, others, label, seed)
    with torch.no_grad():
        right = saw(as_pixels(data.test_images)).argmax(1) == data.test_labels
    return {
        "known_label": score.known - plain.known,
        "unknown_label": score.unknown - plain.unknown,
        "remembers": float(score.known > plain.known),
        "control_above_0": float(plain.known > 0),
        "accuracy": float(right.double().mean()),
    }


def trained(
    images: Tensor, labels: Tensor, network: str, training: str, seed: int
) -> nn.Sequential:
    """Train on the first half of the images; the second half says when to stop early."""
    with torch_seeded(seed, "network"):
        model = NETWORKS[network](training)
    decay = DECAY if training == "weight decay" else 0.0
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=decay)
    rng, best, best_state, waited = generator(seed, "order"), float("inf"), {}, 0
    for epoch in range(EPOCHS):
        model.train()
        with torch_seeded(seed, "dropout", epoch):
            for rows in torch.randperm(IMAGES, generator=rng).split(BATCH):
                optimiser.zero_grad()
                functional.cross_entropy(model(images[rows]), labels[rows]).backward()
                optimiser.step()
        if training != "early stopping":
            continue
        with torch.no_grad():
            loss = float(functional.cross_entropy(model.eval()(images[IMAGES:]), labels[IMAGES:]))
        waited = 0 if loss < best else waited + 1
        if loss < best:
            best, best_state = loss, {name: v.clone() for name, v in model.state_dict().items()}
        if waited == PATIENCE:
            break
    if best_state:
        model.load_state_dict(best_state)
    return model.eval()


def mlp(training: str) -> nn.Sequential:
    """Return two hidden layers of 256 and 128 units."""
    hidden = [layer for sizes in ((784, 256), (256, 128)) for layer in dense(*sizes, training)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(128, 10))


def cnn(training: str) -> nn.Sequential:
    """Return two convolutions of 8 and 16 maps, and a hidden layer of 64 units."""
    norm = training == "batch norm"
    maps = [
        layer
        for before, after in ((1, 8), (8, 16))
        for layer in (
            nn.Conv2d(before, after, 3, padding=1),
            nn.BatchNorm2d(after) if norm else nn.Identity(),
            nn.MaxPool2d(2),
            nn.ReLU(),
        )
    ]
    return nn.Sequential(*maps, nn.Flatten(), *dense(784, 64, training), nn.Linear(64, 10))


def dense(before: int, after: int, training: str) -> list[nn.Module]:
    """Return a hidden layer with what the training asks for."""
    norm = nn.BatchNorm1d(after) if training == "batch norm" else nn.Identity()
    drop = nn.Dropout(0.5) if training == "dropout" else nn.Identity()
    return [nn.Linear(before, after), norm, nn.ReLU(), drop]


NETWORKS = {"mlp": mlp, "cnn": cnn}
