"""Tests of the cache: entries are computed once, by one process, and written atomically."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fl_sim.core.cache import cache_folder, digest, load_or_compute
from fl_sim.core.errors import RequestError
from fl_sim.core.resumable import Checkpoint, resume_from


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FL_SIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "kind").iterdir())


def test_the_folder_is_named_by_the_environment(folder: Path) -> None:
    assert cache_folder() == folder


def test_the_folder_is_in_the_home_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FL_SIM_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "fl_sim"


def test_an_entry_is_computed_once() -> None:
    calls = []

    def compute() -> Tensor:
        calls.append(1)
        return torch.arange(6).view(2, 3)

    first, second = load_or_compute("kind", "key", compute), load_or_compute("kind", "key", compute)
    assert len(calls) == 1
    assert torch.equal(first, second)
    assert torch.equal(first, torch.arange(6).view(2, 3))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.int64], ids=str)
def test_an_entry_keeps_its_type_and_bits(dtype: torch.dtype) -> None:
    value = (torch.rand(3, 4) * 9).to(dtype)
    for _ in range(2):
        read = load_or_compute("kind", str(dtype), lambda: value)
        assert read.dtype == dtype
        assert torch.equal(read, value)


def test_an_entry_that_is_a_view_comes_back_whole() -> None:
    table = torch.arange(12).view(3, 4)
    assert torch.equal(load_or_compute("kind", "view", lambda: table.T), table.T)


def test_keys_and_kinds_are_kept_apart() -> None:
    for number, (kind, key) in enumerate([("kind", "a"), ("kind", "b"), ("other", "a")]):
        load_or_compute(kind, key, lambda number=number: torch.tensor([number]))  # type: ignore[misc]
    nothing = torch.tensor([-1])
    found = [
        load_or_compute(k, n, lambda: nothing).item() for k, n in [("kind", "a"), ("other", "a")]
    ]
    assert found == [0, 2]


def test_a_computation_that_fails_leaves_no_entry(folder: Path) -> None:
    def fail() -> Tensor:
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        load_or_compute("kind", "key", fail)
    assert files(folder) == ["key.lock"]
    assert load_or_compute("kind", "key", lambda: torch.ones(1)).item() == 1


def test_a_computation_that_is_interrupted_goes_on_where_it_was(folder: Path) -> None:
    def compute(fails: bool) -> Tensor:
        checkpoint = Checkpoint("half")
        if checkpoint.load() is None:
            checkpoint.save({"half": torch.ones(2)})
            if fails:
                raise RuntimeError("interrupted")
        kept = checkpoint.load()
        assert kept is not None
        return kept["half"] * 2

    with pytest.raises(RuntimeError, match="interrupted"):
        load_or_compute("kind", "key", lambda: compute(fails=True))
    assert torch.equal(
        load_or_compute("kind", "key", lambda: compute(fails=True)), 2 * torch.ones(2)
    )
    assert files(folder) == ["key.lock", "key.safetensors"]


def test_what_a_killed_process_left_is_not_taken_for_an_entry(folder: Path) -> None:
    (folder / "kind").mkdir(parents=True)
    (folder / "kind" / "key.99999").write_bytes(b"half an entry")
    assert load_or_compute("kind", "key", lambda: torch.ones(1)).item() == 1


def test_nothing_but_the_entry_and_its_lock_is_left(folder: Path) -> None:
    load_or_compute("kind", "key", lambda: torch.ones(1))
    assert files(folder) == ["key.lock", "key.safetensors"]


def compute_and_log(log: str, barrier: object) -> None:
    """Request the same entry as the other process, at the same moment."""

    def compute() -> Tensor:
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()}\n")
        return torch.rand(200_000, generator=torch.Generator().manual_seed(1))

    barrier.wait()  # type: ignore[attr-defined]
    entry = load_or_compute("kind", "shared", compute)
    assert torch.equal(
        entry,
        compute.__globals__["torch"].rand(200_000, generator=torch.Generator().manual_seed(1)),
    )


def test_two_processes_compute_an_entry_once(tmp_path: Path) -> None:
    context, log = multiprocessing.get_context("fork"), tmp_path / "log"
    barrier = context.Barrier(2)
    both = [context.Process(target=compute_and_log, args=(str(log), barrier)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(log.read_text().splitlines()) == 1


def test_a_digest_depends_on_content_shape_and_type() -> None:
    base = torch.arange(6)
    others = [base + 1, base.view(2, 3), base.int(), base.flip(0), base[:5]]
    assert len({digest(tensor) for tensor in [base, *others]}) == 6
    assert digest(base.clone()) == digest(base)


def test_a_digest_does_not_depend_on_the_layout_in_memory() -> None:
    images = torch.rand(2, 3, 4, 5)
    assert digest(images.to(memory_format=torch.channels_last)) == digest(images)


def test_an_empty_tensor_has_a_digest() -> None:
    assert digest(torch.zeros(0, 3)) != digest(torch.zeros(3, 0))


@pytest.mark.parametrize(
    ("one", "other"),
    [(("ab", "c"), ("a", "bc")), ((1, 11), (11, 1)), ((100,), (10, 0)), (("1",), (1,))],
)
def test_neighbouring_parts_do_not_run_together(
    one: tuple[str | int, ...], other: tuple[str | int, ...]
) -> None:
    assert digest(*one) != digest(*other)


def entry(value: float) -> Callable[[], Tensor]:
    return lambda: torch.full((1000,), value)


def zeroed(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes(len(content) - len(content) // 2)


def flipped(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


@pytest.mark.parametrize(
    "spoil",
    [zeroed, flipped, lambda content: content[:-9], lambda content: b"", lambda content: b"junk"],
    ids=["half is zero", "one bit", "cut", "empty", "junk"],
)
def test_an_entry_that_was_changed_is_computed_anew_and_named(
    folder: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[bytes], bytes]
) -> None:
    load_or_compute("kind", "key", entry(1))
    path = folder / "kind" / "key.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    assert torch.equal(load_or_compute("kind", "key", entry(2)), entry(2)())
    assert str(path) in caplog.text
    assert "computed anew" in caplog.text
    caplog.clear()
    assert torch.equal(load_or_compute("kind", "key", entry(3)), entry(2)())
    assert not caplog.text


def test_an_entry_in_the_place_of_another_is_not_returned(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_or_compute("kind", "a", entry(1))
    load_or_compute("kind", "b", entry(2))
    (folder / "kind" / "a.safetensors").replace(folder / "kind" / "b.safetensors")
    assert torch.equal(load_or_compute("kind", "b", entry(3)), entry(3)())
    assert "b.safetensors: is another entry's" in caplog.text


def test_an_entry_without_a_hash_is_computed_anew(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "kind").mkdir(parents=True)
    save_file({"entry": torch.zeros(3)}, folder / "kind" / "key.safetensors")
    assert torch.equal(load_or_compute("kind", "key", entry(1)), entry(1)())
    assert "carries no hash" in caplog.text


def test_a_cache_that_cannot_be_written_to_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FL_SIM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(RequestError, match=r"Not a directory.*set FL_SIM_CACHE"):
        load_or_compute("kind", "key", entry(1))
    monkeypatch.delenv("FL_SIM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(RequestError, match="set FL_SIM_CACHE"):
        load_or_compute("kind", "key", entry(1))


def test_a_checkpoint_of_a_computation_that_was_changed_is_not_gone_on_from(tmp_path: Path) -> None:
    with resume_from(tmp_path):
        Checkpoint("half").save({"half": torch.ones(100)})
        path = tmp_path / "half.safetensors"
        path.write_bytes(flipped(path.read_bytes()))
        assert Checkpoint("half").load() is None
