"""Images of users: .npz files and folders."""

import io
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fl_sim.core.errors import RequestError
from fl_sim.data.sources import load_dataset
from tests.fuzz.families import Family
from tests.fuzz.judge import call, expect
from tests.fuzz.mutations import mutate_bytes


@final
class NpzFiles(Family):
    """Arrays of all types and shapes in MedMNIST's layout, whole and damaged."""

    name: ClassVar[str] = "npz"

    def attempt(self, rng: random.Random) -> bool:
        """Load one file; images and labels must be those of the file."""
        draw = np.random.default_rng(rng.randrange(2**32))
        arrays = {
            f"{part}_{kind}": _draw_array(rng, draw, kind, n)
            for part, n in (("train", 12), ("test", 6))
            for kind in ("images", "labels")
            if rng.random() < 0.98
        }
        if rng.random() < 0.1:
            arrays[rng.choice(("val_images", "extra", "train_labels.npy"))] = np.zeros(3)
        content = io.BytesIO()
        rng.choice((np.savez, np.savez_compressed))(content, **arrays)
        damaged = rng.random() < 0.3
        raw = mutate_bytes(rng, content.getvalue()) if damaged else content.getvalue()
        path = self.folder / "input" / "images.npz"
        path.write_bytes(raw)
        dataset = load_dataset("npz", str(path))
        for part in ("train", "test"):
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
            own_images = getattr(dataset, f"{part}_images").numpy()
            own_labels = getattr(dataset, f"{part}_labels").numpy()
            expect(own_images.size == images.size, f"{part}: another number of pixels")
            same = np.array_equal(np.sort(own_images, axis=None), np.sort(images, axis=None))
            expect(same, f"{part}: other pixels")
            expect(np.array_equal(own_labels, labels.reshape(-1)), f"{part}: other labels")
        return True


def _draw_array(rng: random.Random, draw: np.random.Generator, kind: str, n: int) -> NDArray[Any]:
    usual = rng.random() < 0.8
    if kind == "labels":
        labels = np.arange(n) % 3
        if usual:
            return labels.astype(rng.choice(("uint8", "int64", "uint16"))).reshape(-1, 1)
        return rng.choice(_LABELS)(labels)
    pixels = draw.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    if usual:
        return pixels if rng.random() < 0.9 else pixels[..., 0]
    return rng.choice(_IMAGES)(pixels)


_LABELS: tuple[Any, ...] = (
    lambda values: values.astype(np.float64),
    lambda values: values + 0.5,
    lambda values: values - 1,
    lambda values: values + 10**12,
    lambda values: values.astype(np.uint64) + np.uint64(2**63),
    lambda values: values.astype(str),
    lambda values: values[:-1],
    lambda values: np.stack([values, values], 1),
    lambda values: values.astype(object),
    lambda values: values * 0,
    lambda values: values.astype(bool),
    lambda values: values[:0],
    lambda values: np.where(values == 0, np.nan, values),
)
_IMAGES: tuple[Any, ...] = (
    lambda values: values.astype(np.uint16) * 257,
    lambda values: values / 255,
    lambda values: values.astype(np.int16) - 5,
    lambda values: values[:0],
    lambda values: values[:, :0],
    lambda values: values.reshape(len(values), -1),
    lambda values: values[..., :2],
    lambda values: values.transpose(0, 3, 1, 2),
    lambda values: values[:, :1, :1],
    lambda values: values.astype(object),
    lambda values: values[..., None],
    lambda values: values > 100,
    lambda values: np.pad(values, ((0, 0), (0, 3), (0, 0), (0, 0))),
)
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")
SUFFIXES = (".png", ".jpg", ".bmp", ".tiff", ".gif", ".webp", ".PNG", ".jpeg", ".tif", ".ppm")


@final
class ImageFolders(Family):
    """Folders of image files in all modes and formats, with stray, linked and damaged files."""

    name: ClassVar[str] = "image folders"

    def attempt(self, rng: random.Random) -> bool:
        """Load one folder, and protect it; every image must be there once, unchanged."""
        root = self.folder / "input" / "images"
        shutil.rmtree(root, ignore_errors=True)
        plain = [path for part in _draw_parts(rng) for path in _write_images(rng, root / part)]
        for _ in range(rng.choice((0, 0, 1, 2))):
            rng.choice(_CHANGES)(rng, root, plain)
        out = self.folder / "input" / "protected"
        shutil.rmtree(out, ignore_errors=True)
        try:
            dataset = load_dataset("image_folder", str(root))
        except RequestError:
            called = call("protect", str(root), "--method", "lsp", "--out", str(out))
            expect(called.code != 1 or bool(called.err), "protect failed without a word")
            raise
        images = [*dataset.train_images, *dataset.test_images]
        files = [p for p in root.rglob("*") if p.is_file() and not p.name.startswith(".")]
        files = [p for p in files if p.suffix.lower() in {s.lower() for s in SUFFIXES}]
        expect(len(images) <= len(files), f"{len(images)} images of {len(files)} files")
        if "val" not in {p.name.lower() for p in root.iterdir()}:
            expect(len(images) == len(files), f"{len(images)} images of {len(files)} files")
        known = {_read_pixels(path) for path in files}
        channels = images[0].shape[0]
        for image in images:
            values = image.permute(1, 2, 0).numpy() if channels == 3 else image[0].numpy()
            expect(values.tobytes() in known or channels == 3, "pixels that no file has")
        return True


def _read_pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return np.asarray(image.convert("L")).tobytes()


def _draw_parts(rng: random.Random) -> list[str]:
    return rng.choice(
        ([""], [""], ["train", "test"], ["train", "val"], ["Train", "Test"], ["train"])
    )


def _write_images(rng: random.Random, root: Path) -> list[Path]:
    grey = rng.random() < 0.5
    made = []
    for label in ("a", "b", "c")[: rng.choice((1, 2, 3, 3, 3))]:
        for i in range(rng.randint(1, 4)):
            mode = ("L" if grey else "RGB") if rng.random() < 0.97 else rng.choice(MODES)
            suffix = ".png" if rng.random() < 0.9 else rng.choice(SUFFIXES)
            size = (10, 10) if rng.random() < 0.99 else (rng.randint(1, 30), rng.randint(1, 30))
            path = root / label / f"{i}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_image(rng, path, mode, size)
            made.append(path)
    return made


def _write_image(rng: random.Random, path: Path, mode: str, size: tuple[int, int]) -> None:
    pixels = np.frombuffer(rng.randbytes(size[0] * size[1] * 3), np.uint8)
    image = Image.fromarray(pixels.reshape(size[1], size[0], 3))
    try:
        image.convert(mode).save(path)
    except (ValueError, OSError):
        path.unlink(missing_ok=True)
        image.convert("L").save(path.with_suffix(".png"))


def _add_frames(rng: random.Random, root: Path, plain: list[Path]) -> None:
    (root / "a").mkdir(parents=True, exist_ok=True)
    frames = [Image.new("L", (10, 10), shade) for shade in (0, 99)]
    suffix = rng.choice((".gif", ".tiff", ".png", ".webp"))
    frames[0].save(root / f"a/moving{suffix}", save_all=True, append_images=frames[1:])


def _damage(rng: random.Random, root: Path, plain: list[Path]) -> None:
    path = rng.choice(plain)
    if path.exists():
        path.write_bytes(mutate_bytes(rng, path.read_bytes())[:-1] or b"")


def _add_link(rng: random.Random, root: Path, plain: list[Path]) -> None:
    target = rng.choice((root.parent / "images.npz", root, Path("/etc/passwd"), root / "absent"))
    (root / "a").mkdir(parents=True, exist_ok=True)
    link = root / rng.choice(("a/link.png", "link"))
    if not link.is_symlink():
        link.symlink_to(target)


def _add_stray_file(rng: random.Random, root: Path, plain: list[Path]) -> None:
    name = rng.choice(("notes.txt", "a/x.heic", "a/.hidden.png", "x.png", "a/no_suffix", "a/x.npy"))
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(rng.randbytes(30))


def _add_bomb(rng: random.Random, root: Path, plain: list[Path]) -> None:
    content = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(content, "PNG")
    (root / "a").mkdir(parents=True, exist_ok=True)
    (root / "a/large.png").write_bytes(content.getvalue())


def _add_archive(rng: random.Random, root: Path, plain: list[Path]) -> None:
    (root / "a").mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / "a/more.zip", "w") as file:
        file.writestr("x.png", b"")


_CHANGES = (
    _add_frames,
    _damage,
    _damage,
    _add_link,
    _add_stray_file,
    _add_stray_file,
    _add_bomb,
    _add_archive,
)
