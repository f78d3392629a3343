"""Published files: fetched from a server on this machine, checked, and refused when damaged."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from fl_sim.cli import list_commands
from fl_sim.data.download import PublishedFile, download
from fl_sim.data.sources import (
    MissingDataError,
    cifar,
    discover_sources,
    find_source,
    load_dataset,
    medmnist,
    olivetti,
)

PUBLISHED = sorted(name for name in discover_sources() if name.startswith("medmnist:"))


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and prints nothing."""

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """Serve a folder; yield it and its address, with an empty cache."""
    monkeypatch.setenv("FL_SIM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def publish(folder: Path, name: str, content: bytes, address: str) -> PublishedFile:
    (folder / name).write_bytes(content)
    return PublishedFile(f"{address}/{name}", name, "md5", hashlib.md5(content).hexdigest())


def test_a_file_is_fetched_once_and_its_bytes_are_told(
    server: tuple[Path, str], tmp_path: Path
) -> None:
    content = bytes(range(256)) * 8192  # two blocks
    file, place = publish(server[0], "a.npz", content, server[1]), tmp_path / "new" / "a.npz"
    heard: list[tuple[int, int]] = []
    download(file, place, lambda *told: heard.append(told))
    assert place.read_bytes() == content
    assert heard[-1] == (len(content), len(content))
    (server[0] / "a.npz").unlink()
    download(file, place, lambda *told: None)  # from where it is


def test_other_bytes_are_refused_and_nothing_is_left(
    server: tuple[Path, str], tmp_path: Path
) -> None:
    file = publish(server[0], "a.npz", b"content", server[1])
    (server[0] / "a.npz").write_bytes(b"another")
    place = tmp_path / "new" / "a.npz"
    with pytest.raises(MissingDataError, match="not the published file: its md5 is"):
        download(file, place, lambda *told: None)
    assert list(place.parent.iterdir()) == []


def test_without_the_file_the_error_says_where_to_put_it(
    server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(medmnist, "ADDRESS", f"{server[1]}/{{}}.npz")
    place = tmp_path / "cache" / "data" / "medmnist" / "bloodmnist.npz"
    words = rf"fetched \(HTTP Error 404.*\); fetch it where .*, put it at {place}, and run this"
    with pytest.raises(MissingDataError, match=words):
        list_commands.data_fetch("medmnist:bloodmnist")
    words = f"run `fl-sim data fetch medmnist:bloodmnist`, or put {server[1]}/bloodmnist.npz at"
    with pytest.raises(MissingDataError, match=words):
        load_dataset("medmnist:bloodmnist")
    closed = PublishedFile("http://127.0.0.1:9/a", "a", "md5", "")
    with pytest.raises(MissingDataError, match="Connection refused"):
        download(closed, tmp_path / "a", lambda *told: None)


def test_a_set_of_medmnist_has_its_published_names_and_sizes(
    server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 6), ("val", 2), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8).reshape(-1, 1) % 7
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    file = publish(server[0], "dermamnist.npz", stream.getvalue(), server[1])
    monkeypatch.setattr(medmnist, "ADDRESS", f"{server[1]}/{{}}.npz")
    monkeypatch.setattr(medmnist.DermaMnist, "md5", file.checksum)
    monkeypatch.setattr(medmnist.DermaMnist, "sizes", (6, 2, 4))
    list_commands.data_fetch("medmnist:dermamnist")
    dataset = load_dataset("medmnist:dermamnist")
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (6, 4)
    assert (dataset.num_classes, dataset.class_names[4]) == (7, "melanoma")
    images = torch.from_numpy(arrays["train_images"]).permute(0, 3, 1, 2)
    assert torch.equal(dataset.train_images, images)
    monkeypatch.setattr(medmnist.DermaMnist, "sizes", (7, 2, 4))
    with pytest.raises(MissingDataError, match="does not hold"):
        load_dataset("medmnist:dermamnist", str(server[0]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_record_of_a_set_is_whole(name: str) -> None:
    source = find_source(name)
    assert isinstance(source, medmnist.MedMnist)
    assert source.is_published
    assert len(source.md5) == 32
    assert len({*source.class_names}) == len(source.class_names)
    assert f"{sum(source.sizes):,} " in (source.__doc__ or "")


def test_the_sets_of_medmnist_are_those_with_one_label_and_two_dimensions() -> None:
    assert len(PUBLISHED) == 11
    assert len({find_source(name).md5 for name in PUBLISHED}) == 11  # type: ignore[attr-defined]


def test_olivetti_is_forty_people_of_ten_upright_faces(
    server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    faces = np.random.default_rng(0).integers(0, 256, (400, 64, 64), dtype=np.uint8)
    faces[0, 0, 0], faces[0, 0, 1] = 0, 255
    stream = io.BytesIO()
    savemat(stream, {"faces": faces.transpose(0, 2, 1).reshape(400, -1).T})
    file = publish(server[0], "olivettifaces.mat", stream.getvalue(), server[1])
    monkeypatch.setattr(olivetti, "FILE", file)
    list_commands.data_fetch("olivetti")
    dataset = load_dataset("olivetti")
    assert dataset.train_images.shape == (320, 1, 64, 64)
    assert dataset.test_labels.bincount().tolist() == [2] * 40
    kept = {image.numpy().tobytes() for image in (*dataset.train_images, *dataset.test_images)}
    assert kept == {face.tobytes() for face in faces}


def test_an_archive_is_unpacked_whole(
    server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/test_batch")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"bytes"))
    file = publish(server[0], "c.tar.gz", stream.getvalue(), server[1])
    monkeypatch.setattr(cifar, "ADDRESS", f"{server[1]}/{{}}")
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", (file.name, file.checksum))
    with pytest.raises(MissingDataError, match="cifar10 was not found or is damaged: run `fl-sim"):
        list_commands.data_fetch("cifar10")  # torchvision's checks refuse these bytes
    root = tmp_path / "cache" / "data" / "cifar10"
    assert [path.name for path in root.iterdir()] == ["cifar-10-batches-py"]
    assert (root / "cifar-10-batches-py" / "test_batch").read_bytes() == b"bytes"
