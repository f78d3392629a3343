"""Start models with a backdoor or a bias, trained by their recipes and cached."""

import hashlib
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from fl_sim.contracts import Dataset
from fl_sim.core.cache import digest, load_or_compute
from fl_sim.core.device import call_on_device, device_key
from fl_sim.core.errors import FieldError, require
from fl_sim.core.perturbation import as_pixels
from fl_sim.core.seeding import derive_seed, generator
from fl_sim.core.serialization import describe, hash_own_modules
from fl_sim.data import sources
from fl_sim.experiment import Data, Model
from fl_sim.models.foundation import hash_model
from fl_sim.models.surrogate import Surrogate
from fl_sim.models.tuning import flatten_state
from fl_sim.planted import Planted

SHAPING = ("backbone", "norm", "pixels", "backbone_rate", "checkpoint")  # of the whole network


def plant(
    model: Model, data: Data, image_shape: tuple[int, int, int], seed: int
) -> Float[Tensor, " s"]:
    """Return the weights and buffers of the whole network after its recipe, cached.

    Args:
        model: Model whose `init` is `planted`.
        data: Data of the run.
        image_shape: Channels, height and width of the run's images.
        seed: Seed of the run.

    Raises:
        FieldError: If there are no images for the recipe, or they have another shape.
    """
    recipe = model.planted
    assert recipe is not None
    whole = Model(init=recipe.base, **{name: getattr(model, name) for name in SHAPING})
    anywhere = replace(whole, checkpoint="a file" if whole.checkpoint else None)
    own = replace(data, num_clients=1, num_test=None, held_out=0.0)  # which change no image
    if recipe.dataset is not None:
        own = Data(recipe.dataset, path=recipe.path, side=data.side)
    content = sources.hash_dataset(own.dataset, own.path)
    parts = [repr(describe(part)) for part in (recipe, anywhere, replace(own, path=None))]
    parts += filter(None, [hash_own_modules(recipe)])
    if recipe.dataset is not None:  # checked to have the run's shape when the start is trained
        parts.append(str(image_shape))
    key = digest(*parts, hash_model(whole), content, seed, *device_key())

    def compute() -> Tensor:
        dataset = _select_images(recipe, own)
        return call_on_device(_train, whole, recipe, dataset, image_shape, seed)

    return load_or_compute("planted", key, compute)


def hash_state(state: Float[Tensor, " s"]) -> str:
    """Return the SHA-256 of the bits of a state."""
    return hashlib.sha256(state.numpy().tobytes()).hexdigest()


def _select_images(recipe: Planted, data: Data) -> Dataset:
    """Return the images that the recipe trains on, as the training images of a dataset."""
    dataset = sources.load_dataset(data.dataset, data.path, data.read_options)
    if data.classes is not None:
        dataset = sources.select_classes(dataset, data.classes)
    if recipe.dataset is None:
        dataset = sources.take_rest(dataset, data.num_samples)
    left, wanted = len(dataset.train_labels), recipe.num_images
    allowed = "fewer than all images, so that some are left for model.planted, or planted.dataset"
    require(left > 0, "data.num_samples", allowed, data.num_samples)
    allowed = f"at most the {left} images that no client holds"
    require(wanted is None or wanted <= left, "model.planted.num_images", allowed, wanted)
    return sources.take_subset(dataset, wanted, None)


def _train(
    model: Model, recipe: Planted, dataset: Dataset, image_shape: tuple[int, int, int], seed: int
) -> Float[Tensor, " s"]:
    """Return the weights and buffers after training on the poisoned images."""
    shape = tuple(dataset.train_images.shape[1:])
    if shape != image_shape:
        allowed = f"a dataset of images of {image_shape}, like those of the run; these are {shape}"
        raise FieldError("model.planted.dataset", allowed, dataset.name)
    for name, number in recipe.named_classes().items():
        allowed = f"one of {dataset.num_classes} classes, from 0"
        require(number < dataset.num_classes, f"model.planted.{name}", allowed, number)
    rng = generator(seed, "planted", "images")
    images, labels = recipe.poison(dataset.train_images, dataset.train_labels, rng)
    surrogate = Surrogate(
        model, image_shape, dataset.num_classes, derive_seed(seed, "planted"), recipe.learning_rate
    )
    shuffled = generator(seed, "planted", "batches")
    surrogate.fit(
        as_pixels(images),
        labels,
        recipe.epochs,
        recipe.batch_size,
        0,
        shuffled,
        recipe.compute_loss,
    )
    return flatten_state(surrogate.model)
