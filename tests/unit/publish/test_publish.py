"""Results of `fl-sim protect`: lossless copies, a manifest, and equal bytes after a break."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fl_sim.core import resumable
from fl_sim.core.errors import RequestError, RunFailedError
from fl_sim.core.seeding import generator
from fl_sim.data.sources import MissingDataError
from fl_sim.metrics.quality import psnr, ssim
from fl_sim.protections.autoregressive import Autoregressive
from fl_sim.protections.error_minimizing import ErrorMinimizing
from fl_sim.protections.linear_separable import LinearSeparable
from fl_sim.protections.random_noise import RandomNoise
from fl_sim.protections.stable_error_minimizing import StableErrorMinimizing
from fl_sim.publish.check import check_protected
from fl_sim.publish.protection_report import compute_clipped_share, protect_and_report
from fl_sim.publish.publish import publish, write_report
from fl_sim.publish.request import Request, parse_method

RNG = np.random.default_rng(0)
PASSES = "passes over each image"  # stage of the work


def silent(stage: str, done: int, total: int | None) -> None:
    pass


def put(path: Path, *size: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, size or (12, 12), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of nine grey images in three class folders."""
    for index in range(9):
        put(tmp_path / "in" / f"class {index % 3}" / f"{index}.png")
    return tmp_path / "in"


def request_for(source: Path, **changes: Any) -> Request:
    usual = {"out": source.parent / "out", "protection": RandomNoise(8 / 255)}
    return Request(source, **(usual | changes))


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def images_of(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in content_of(folder).items() if ".json" not in name}


def test_images_are_written_without_loss_within_the_radius(folder: Path) -> None:
    publish(request_for(folder), silent)
    written = images_of(folder.parent / "out")
    assert sorted(written) == sorted(content_of(folder))
    for name in written:
        before = np.array(Image.open(folder / name)).astype(int)
        after = np.array(Image.open(folder.parent / "out" / name)).astype(int)
        assert 0 < np.abs(after - before).max() <= 8


def test_the_pixels_are_those_of_the_protection(folder: Path) -> None:
    protection = ErrorMinimizing(max_passes=2)
    publish(request_for(folder, protection=protection, seed=4), silent)
    names = sorted(content_of(folder))
    images = torch.stack([torch.from_numpy(np.array(Image.open(folder / n))) for n in names])
    labels = torch.tensor([int(name.split("/")[0][-1]) for name in names])
    expected = protection.protect(images[:, None], labels, torch.arange(9), 4)
    found = [np.array(Image.open(folder.parent / "out" / name)) for name in names]
    assert np.array_equal(np.stack(found), expected[:, 0].numpy())


def test_the_input_is_never_touched(folder: Path) -> None:
    before = content_of(folder)
    publish(request_for(folder), silent)
    assert content_of(folder) == before


def test_the_manifest_describes_the_result(folder: Path) -> None:
    content = publish(request_for(folder, seed=3), silent)
    assert content["request"]["method"] == "random"
    assert content["request"]["seed"] == 3
    assert content["account"]["radius"] == 8 / 255
    assert len(content["images"]) == 9
    entry = content["images"][0]
    assert (entry["name"], entry["label"]) == ("class 0/0.png", "class 0")
    assert entry["change"] <= 8
    assert 30 < entry["psnr"] < 50
    assert 0 < entry["ssim"] < 1
    assert any(line[0] == "mean PSNR" for line in write_report(content))


def test_twice_the_same_gives_the_same_bytes(folder: Path) -> None:
    for out in ("a", "b"):
        publish(request_for(folder, out=folder.parent / out), silent)
    assert images_of(folder.parent / "a") == images_of(folder.parent / "b")


class BrokenError(Exception):
    """Simulates a power cut."""


@pytest.mark.parametrize("stage", ["images read", PASSES, "images written"])
def test_a_resumed_call_writes_the_same_bytes(folder: Path, stage: str) -> None:
    protection = ErrorMinimizing(max_passes=2, batch_size=4)
    whole = request_for(folder, protection=protection, out=folder.parent / "whole")
    publish(whole, silent)
    broken = request_for(folder, protection=protection)

    def cut(now: str, done: int, total: int | None) -> None:
        if now == stage and done >= 4:
            raise BrokenError

    with pytest.raises(BrokenError):
        publish(broken, cut)
    if stage == "images written":
        with (broken.out / "journal.jsonl").open("a") as journal:
            journal.write('\n{"name": "torn')
        kept = {
            name: (broken.out / name).stat().st_mtime_ns
            for name in images_of(broken.out)
            if name.endswith(".png")
        }
        assert len(kept) == 4
    publish(broken, silent)
    if stage == "images written":
        assert all((broken.out / n).stat().st_mtime_ns == time for n, time in kept.items())
    assert images_of(broken.out) == images_of(whole.out)
    first, second = (json.loads((r.out / "manifest.json").read_text()) for r in (whole, broken))
    assert first["images"] == second["images"]


def test_an_interrupted_training_of_noise_is_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "SECONDS", 0.0)
    monkeypatch.setattr(resumable, "SHARE", float("inf"))
    protection = StableErrorMinimizing(
        surrogate_steps=12, batch_size=4, noise_steps=1, transforms=1, adversary_steps=1
    )
    whole = request_for(folder, protection=protection, out=folder.parent / "whole")
    passes: list[int] = []
    publish(whole, lambda stage, done, total: passes.append(done) if stage == PASSES else None)
    broken = request_for(folder, protection=protection)

    def cut(stage: str, done: int, total: int | None) -> None:
        if stage == PASSES and done > passes[-1] // 2:
            raise BrokenError

    with pytest.raises(BrokenError):
        publish(broken, cut)
    left: list[int] = []
    publish(broken, lambda stage, done, total: left.append(done) if stage == PASSES else None)
    assert images_of(broken.out) == images_of(whole.out)
    assert left[-1] < 0.7 * passes[-1]
    assert not list(broken.out.glob(".work*"))


def test_a_finished_folder_is_left_alone_and_a_damaged_one_mended(folder: Path) -> None:
    request = request_for(folder)
    publish(request, silent)
    before = content_of(request.out)
    publish(request, silent)
    assert content_of(request.out) == before
    (request.out / "class 1" / "4.png").write_bytes(b"gone")
    publish(request, silent)
    assert images_of(request.out) == {n: c for n, c in before.items() if ".json" not in n}


@pytest.mark.parametrize("change", [{"seed": 1}, {"protection": RandomNoise(4 / 255)}])
def test_a_folder_of_another_request_is_refused(folder: Path, change: dict[str, Any]) -> None:
    publish(request_for(folder), silent)
    with pytest.raises(RequestError, match=r"--out: .* other images or settings"):
        publish(request_for(folder, **change), silent)


def test_a_folder_with_something_in_it_is_refused(folder: Path) -> None:
    out = folder.parent / "out"
    put(out / "mine.png")
    with pytest.raises(RequestError, match=r"not empty .* mine.png"):
        publish(request_for(folder), silent)


@pytest.mark.parametrize("place", [".", "inside", ".."])
def test_an_output_that_meets_the_input_is_refused(folder: Path, place: str) -> None:
    with pytest.raises(RequestError, match=r"--out: a folder apart from the input"):
        publish(request_for(folder, out=folder / place), silent)


def test_a_corrupt_image_is_named_and_nothing_written(folder: Path) -> None:
    damaged = folder / "class 2" / "5.png"
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(MissingDataError, match=r"corrupt image .*5\.png"):
        publish(request_for(folder), silent)
    assert not (folder.parent / "out").exists()


def test_a_label_without_images_is_named(folder: Path) -> None:
    (folder / "class 3").mkdir()
    with pytest.raises(MissingDataError, match=r"label without images: .*class 3"):
        publish(request_for(folder), silent)


def test_an_image_without_a_label_is_named(folder: Path) -> None:
    put(folder / "stray.png")
    with pytest.raises(MissingDataError, match=r"image without a label: stray.png"):
        publish(request_for(folder), silent)


def test_an_output_that_cannot_be_written_is_refused_before_any_work(folder: Path) -> None:
    file = folder.parent / "file"
    file.write_bytes(b"")
    with pytest.raises(RequestError, match=r"--out: cannot write to .*: Not a directory"):
        publish(request_for(folder, out=file / "out"), silent)


def test_a_full_disk_is_one_error_and_loses_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, real, count = request_for(folder), Path.write_bytes, 0

    def write(path: Path, content: bytes) -> int:
        nonlocal count
        if content.startswith(b"\x89PNG"):
            count += 1
            if count > 3:
                real(path, content[:5])
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", write)
        with pytest.raises(RunFailedError, match=r"the disk is full; what was written"):
            publish(request, silent)
    assert len([n for n in content_of(request.out) if n.endswith(".png")]) == 3
    assert not [n for n in content_of(request.out) if "partial" in n]
    publish(request, silent)
    assert len(images_of(request.out)) == 9


def test_too_little_disk_space_is_refused_before_any_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    with pytest.raises(RequestError, match=r"--out: the disk .* are needed"):
        publish(request_for(folder), silent)


def test_labels_can_come_from_a_file(tmp_path: Path) -> None:
    names = [f"deep/{index}.png" for index in range(4)]
    for name in names:
        put(tmp_path / "in" / name)
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\n" + "".join(f"{n},{'ab'[i % 2]}\n" for i, n in enumerate(names)))
    request = request_for(tmp_path / "in", labels=labels)
    content = publish(request, silent)
    assert [entry["label"] for entry in content["images"]] == ["a", "b", "a", "b"]
    assert (request.out / "labels.csv").read_text() == labels.read_text()
    assert check_protected(request.out, None, silent).problems == ()
    labels.write_text(labels.read_text() + "deep/9.png,a\n")
    with pytest.raises(MissingDataError, match=r"label without image: .* line 6: no file .*9.png"):
        publish(request_for(tmp_path / "in", labels=labels), silent)


def test_images_of_several_sizes_need_a_side(tmp_path: Path) -> None:
    sizes = [(40, 30, 3), (25, 64, 3), (33, 33, 4), (32, 32)]
    for index, size in enumerate(sizes):
        put(tmp_path / "in" / "ab"[index % 2] / f"{index}.png", *size)
    with pytest.raises(RequestError, match=r"images of one size .* --side 64"):
        publish(request_for(tmp_path / "in"), silent)
    request = request_for(tmp_path / "in", side=16)
    publish(request, silent)
    for index, size in enumerate(sizes):
        name = f"{'ab'[index % 2]}/{index}.png"
        before = Image.open(tmp_path / "in" / name)
        after = Image.open(request.out / name)
        assert after.size == before.size == size[1::-1]
        change = np.array(after.convert("RGB")).astype(int) - np.array(before.convert("RGB"))
        if "A" in before.mode:
            alphas = [np.array(image.getchannel("A")) for image in (before, after)]
            assert np.array_equal(*alphas)
        assert 0 < np.abs(change).max() <= 8
    assert check_protected(request.out, None, silent).problems == ()


def test_photographs_are_turned_upright_and_become_lossless(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = put(tmp_path / "in" / "a" / "photo.jpg", 20, 30, 3, exif=exif)
    request = request_for(tmp_path / "in", protection=LinearSeparable())
    publish(request, silent)
    after = Image.open(request.out / "a" / "photo.png")
    assert after.size == Image.open(path).size[::-1]
    assert not after.getexif()


def test_two_images_that_would_become_one_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "in" / "a" / "x.png")
    put(tmp_path / "in" / "a" / "x.bmp")
    with pytest.raises(RequestError, match=r"a/x.bmp and a/x.png would both become a/x.png"):
        publish(request_for(tmp_path / "in"), silent)


@pytest.fixture(params=["grey", "last", "first"])
def arrays(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return an .npz file in each layout, with a train and a test split."""
    shape = {"grey": (8, 8), "last": (8, 8, 3), "first": (3, 8, 8)}[request.param]
    path = tmp_path / "some.npz"
    np.savez(
        path,
        train_images=RNG.integers(0, 256, (6, *shape), dtype=np.uint8),
        train_labels=(np.arange(6) % 2)[:, None],
        test_images=RNG.integers(0, 256, (4, *shape), dtype=np.uint8),
        test_labels=(np.arange(4) % 2)[:, None],
        note=np.array([1, 2, 3]),
    )
    return path


@pytest.mark.parametrize("split", [None, "train"])
def test_arrays_are_protected_in_their_layout(arrays: Path, split: str | None) -> None:
    request = request_for(arrays, split=split)
    publish(request, silent)
    before, after = np.load(arrays), np.load(request.out / "some.npz")
    assert before.files == after.files
    for name in before.files:
        assert (before[name].shape, before[name].dtype) == (after[name].shape, after[name].dtype)
        change = np.abs(before[name].astype(int) - after[name].astype(int)).max()
        protected = name.endswith("images") and (split is None or name.startswith(split))
        assert (0 < change <= 8) if protected else change == 0
    assert check_protected(request.out, None, silent) == check_protected(
        request.out, arrays, silent
    )
    verdict = check_protected(request.out, None, silent)
    assert (verdict.num_images, verdict.compared) == (10 if split is None else 6, True)
    assert verdict.problems == ()


def test_gaps_between_labels_cost_nothing(tmp_path: Path) -> None:
    """Noise is made for the classes that occur, whatever their numbers; labels are unchanged."""
    images = RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8)
    released = []
    for name, labels in (("dense", [0, 1, 2] * 2), ("gaps", [7, 255, 99_999] * 2)):
        path = tmp_path / name / "some.npz"
        path.parent.mkdir()
        np.savez(path, images=images, labels=np.array(labels))
        request = request_for(path, protection=Autoregressive(), out=tmp_path / f"{name} out")
        publish(request, silent)
        released.append(np.load(request.out / "some.npz"))
        assert check_protected(request.out, None, silent).problems == ()
    assert np.array_equal(released[0]["images"], released[1]["images"])
    assert released[1]["labels"].tolist() == [7, 255, 99_999] * 2


def test_changed_arrays_are_noticed(arrays: Path) -> None:
    request = request_for(arrays)
    publish(request, silent)
    path = request.out / "some.npz"
    content = dict(np.load(path))
    content["train_images"][2] ^= 1
    content["test_labels"][1] = 0
    np.savez(path, **content)
    problems = check_protected(request.out, None, silent).problems
    assert problems == (
        "train_images/2 was changed after it was protected",
        "test_images/1 has the label 0, not 1",
    )


def test_a_check_finds_every_kind_of_damage(folder: Path) -> None:
    request = request_for(folder)
    publish(request, silent)
    out = request.out
    assert check_protected(out, None, silent).problems == ()
    put(out / "class 0" / "0.png")
    (out / "class 1" / "1.png").unlink()
    (out / "class 2" / "2.png").rename(out / "class 1" / "2.png")
    put(folder / "class 0" / "3.png")
    text = "\n".join(check_protected(out, None, silent).problems)
    for problem in (
        "class 0/0.png was changed",
        "class 1/1.png is missing",
        "class 2/2.png is missing",
        "class 1/2.png is not in the manifest",
        "3.png is not the one that was protected",
    ):
        assert problem in text
    assert len(text.splitlines()) == 5


def test_a_check_measures_the_radius_itself(folder: Path) -> None:
    request = request_for(folder)
    publish(request, silent)
    path = request.out / "manifest.json"
    content = json.loads(path.read_text())
    content["request"]["protection"]["radius"] = 2 / 255
    path.write_text(json.dumps(content))
    problems = check_protected(request.out, None, silent).problems
    assert len(problems) == 9
    assert all("levels, more than 2" in problem for problem in problems)


def test_a_check_without_originals_says_so(folder: Path) -> None:
    request = request_for(folder)
    publish(request, silent)
    folder.rename(folder.parent / "elsewhere")
    assert check_protected(request.out, None, silent).compared is False
    assert check_protected(request.out, folder.parent / "elsewhere", silent).compared is True


def test_methods_are_found_by_either_name() -> None:
    assert parse_method("SEM", "4/255", ["surrogate_steps=7"]) == parse_method(
        "StableErrorMinimizing", None, ["radius=4/255", "surrogate_steps=7"]
    )
    with pytest.raises(RequestError, match=r"--method: one of .*sem.*; got 'nothing'"):
        parse_method("nothing", None, [])
    with pytest.raises(RequestError, match=r"radius: in pixels of \[0, 1\]"):
        parse_method("em", "8", [])


@pytest.mark.parametrize("radius", [1 / 255, 16 / 255, 0.5, 1.0])
def test_the_clipped_share_is_that_of_a_loop_over_pixels(radius: float) -> None:
    images = torch.randint(0, 256, (2, 1, 4, 4), generator=generator(0, "x"), dtype=torch.uint8)
    room = [
        min(1.0, level / 255 + radius) - max(0.0, level / 255 - radius)
        for level in images.flatten().tolist()
    ]
    expected = 1 - sum(room) / len(room) / (2 * radius)
    assert compute_clipped_share(images, radius) == pytest.approx(expected, abs=1e-12)


def test_the_report_describes_the_result() -> None:
    images = torch.full((3, 1, 8, 8), 128, dtype=torch.uint8)
    labels = torch.arange(3)
    protected, report = protect_and_report(RandomNoise(8 / 255), images, labels, labels, 0)
    change = (protected.int() - images.int()).abs().max()
    assert report.largest_change == pytest.approx(int(change) / 255)
    assert (report.clipped, report.passes_per_image, report.num_images) == (0, 0, 3)
    _, minimising = protect_and_report(
        ErrorMinimizing(max_passes=1, surrogate_steps=1), images, labels, labels, 0
    )
    assert minimising.passes_per_image == 21


def test_similarity_is_that_of_a_loop_over_windows() -> None:
    rng = generator(0, "quality")
    one, two = torch.randint(0, 256, (2, 1, 1, 13, 14), generator=rng, dtype=torch.uint8)
    places = np.arange(11) - 5
    weights = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    x, y = one[0, 0].double().numpy(), two[0, 0].double().numpy()
    values = []
    for row in range(3):
        for column in range(4):
            a, b = (image[row : row + 11, column : column + 11] for image in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            cov = (weights * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 2.55**2, 7.65**2
            top = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
            values.append(top / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    assert float(ssim(one, two)[0]) == pytest.approx(np.mean(values), abs=1e-6)
    error = ((x - y) ** 2).mean()
    assert float(psnr(one, two)[0]) == pytest.approx(10 * np.log10(255**2 / error), abs=1e-4)


@pytest.mark.parametrize("side", [1, 2, 8, 10])
def test_small_images_have_a_similarity_too(side: int) -> None:
    image = torch.randint(0, 256, (1, 3, side, side), generator=generator(0, "s"))
    image = image.to(torch.uint8)
    assert float(ssim(image, image)[0]) == pytest.approx(1)
