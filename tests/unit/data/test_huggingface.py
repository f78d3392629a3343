"""Datasets of Hugging Face are read from the files that `save_to_disk` and the Hub write."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from fl_sim.core.errors import FieldError
from fl_sim.core.seeding import generator
from fl_sim.data.sources import MissingDataError, ReadOptions, load_dataset

NAMES = ["cat", "dog", "owl"]
FEATURES = {
    "id": {"dtype": "int64", "_type": "Value"},
    "img": {"_type": "Image"},
    "fine": {"names": NAMES, "_type": "ClassLabel"},
    "coarse": {"names": ["a", "b"], "_type": "ClassLabel"},
}
FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def pixels_of(seed: int, count: int, side: int = 6) -> torch.Tensor:
    rng = generator(seed, "pixels")
    return torch.randint(0, 256, (count, 3, side, side), generator=rng).to(torch.uint8)


def encode(pixels: torch.Tensor) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(stream, "PNG")
    return stream.getvalue()


def table_of(pixels: torch.Tensor, features: bool = True, **changed: Any) -> pa.Table:
    """Return a table as `datasets` lays it out, with the features in its metadata."""
    count = len(pixels)
    columns = {
        "id": pa.array(range(count)),
        "img": pa.array([{"bytes": encode(image), "path": None} for image in pixels], FILE),
        "fine": pa.array([i % 3 for i in range(count)]),
        "coarse": pa.array([i % 2 for i in range(count)]),
    }
    table = pa.table({name: column for name, column in (columns | changed).items() if column})
    kept = {name: FEATURES[name] for name in table.column_names if name in FEATURES}
    metadata = json.dumps({"info": {"features": kept}}).encode()
    return table.replace_schema_metadata({b"huggingface": metadata} if features else None)


def save_to_disk(folder: Path, table: pa.Table, shards: int = 1) -> None:
    """Write a table as `Dataset.save_to_disk` does: shards of the streaming format, and a state."""
    folder.mkdir(parents=True)
    size = -(-len(table) // shards)
    names = [f"data-{i:05}-of-{shards:05}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        path = str(folder / name)
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(i * size, size))
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return a folder of `DatasetDict.save_to_disk`."""
    save_to_disk(tmp_path / "saved" / "train", table_of(pixels_of(0, 12)), shards=3)
    save_to_disk(tmp_path / "saved" / "test", table_of(pixels_of(1, 6)))
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    return tmp_path / "saved"


def load(path: Path) -> Any:
    return load_dataset("huggingface", str(path))


def test_pixels_labels_and_names_are_those_that_were_saved(saved: Path) -> None:
    dataset = load(saved)
    assert torch.equal(dataset.train_images, pixels_of(0, 12))
    assert torch.equal(dataset.test_images, pixels_of(1, 6))
    assert dataset.train_labels.tolist() == [0, 1, 2] * 4
    assert dataset.test_labels.tolist() == [0, 1, 2] * 2
    assert dataset.class_names == ("cat", "dog", "owl")
    assert "the column coarse is not read" in dataset.notes


def test_features_beside_the_files_are_read_too(saved: Path) -> None:
    for split, table in (("train", pixels_of(0, 12)), ("test", pixels_of(1, 6))):
        folder = saved / split
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        save_to_disk(folder, table_of(table, features=False))
    assert load(saved).class_names == ("cat", "dog", "owl")


@pytest.mark.parametrize(
    "place", ["{}-00000-of-00001.parquet", "data/{}.parquet", "{}/0000.parquet"]
)
def test_parquet_files_are_named_after_their_split(place: str, tmp_path: Path) -> None:
    for split, pixels in (("train", pixels_of(0, 12)), ("validation", pixels_of(1, 6))):
        path = tmp_path / place.format(split)
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(table_of(pixels), path)
    dataset = load(tmp_path)
    assert torch.equal(dataset.train_images, pixels_of(0, 12))
    assert torch.equal(dataset.test_images, pixels_of(1, 6))
    assert "tested on the validation split: there is no other" in dataset.notes


def test_a_fifth_is_set_apart_where_there_is_one_split(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "one", table_of(pixels_of(0, 15)))
    dataset = load(tmp_path / "one")
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (12, 3)
    assert sorted(dataset.test_labels.tolist()) == [0, 1, 2]


def test_plain_tables_have_a_column_named_label(tmp_path: Path) -> None:
    texts = pa.array(["owl", "ant"] * 5)
    table = table_of(pixels_of(0, 10), features=False, fine=None, coarse=None, label=texts)
    parquet.write_table(table, tmp_path / "plain.parquet")
    dataset = load(tmp_path / "plain.parquet")
    assert dataset.class_names == ("ant", "owl")
    assert sorted(dataset.train_labels.tolist()) == [0] * 4 + [1] * 4


def test_images_of_several_sizes_are_scaled_by_data_side(saved: Path, tmp_path: Path) -> None:
    images = [*pixels_of(0, 5), *pixels_of(0, 5, side=9)]
    rows = pa.array([{"bytes": encode(image), "path": None} for image in images], FILE)
    save_to_disk(tmp_path / "mixed", table_of(pixels_of(0, 10), img=rows))
    with pytest.raises(MissingDataError, match=r"\(6, 6\), .* has \(9, 9\); or set data.side"):
        load(tmp_path / "mixed")
    dataset = load_dataset("huggingface", str(tmp_path / "mixed"), ReadOptions(side=8))
    assert dataset.train_images.shape[1:] == (3, 8, 8)
    with pytest.raises(FieldError, match=r"data\.folders"):
        load_dataset("huggingface", str(saved), ReadOptions(folders="label"))


def test_what_cannot_be_used_is_refused_with_its_place(saved: Path, tmp_path: Path) -> None:
    named = pa.array([{"bytes": None, "path": "a.png"}] * 10, FILE)
    tables = {
        "images of the split train are not in": table_of(pixels_of(0, 10), img=named),
        "no column of images in": table_of(pixels_of(0, 10), img=None),
        "no column of class labels, or named label in": table_of(
            pixels_of(0, 10), fine=None, coarse=None
        ),
        r"as whole numbers from 0 to 2; got -1": table_of(
            pixels_of(0, 10), fine=pa.array([-1] * 10)
        ),
        "no images in the split train": table_of(pixels_of(0, 10)).slice(0, 0),
        r"corrupt image .*\[0\]": table_of(
            pixels_of(0, 10), img=pa.array([{"bytes": b"no image", "path": None}] * 10, FILE)
        ),
    }
    for number, (message, table) in enumerate(tables.items()):
        save_to_disk(tmp_path / str(number), table)
        with pytest.raises(MissingDataError, match=message):
            load(tmp_path / str(number))
    (saved / "train" / "data-00000-of-00003.arrow").write_bytes(b"damaged")
    with pytest.raises(MissingDataError, match="a file of train is damaged"):
        load(saved)
    (saved / "train" / "state.json").write_text("{")
    with pytest.raises(MissingDataError, match=r"state\.json holds no JSON"):
        load(saved)


def test_a_path_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(MissingDataError, match="save_to_disk"):
            load(path)


def test_files_outside_the_folder_are_not_read(saved: Path) -> None:
    state = {"_data_files": [{"filename": "../test/data-00000-of-00001.arrow"}]}
    (saved / "train" / "state.json").write_text(json.dumps(state))
    with pytest.raises(MissingDataError, match="a file of train is damaged"):
        load(saved)


def test_older_names_of_the_hub_keep_training_and_test_images_apart(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for split, pixels in (("train", pixels_of(0, 12)), ("test", pixels_of(1, 6))):
        path = folder / f"{split}-00000-of-00001-b42a775f407cee45.parquet"
        parquet.write_table(table_of(pixels), path)
    dataset = load(tmp_path)
    assert torch.equal(dataset.train_images, pixels_of(0, 12))
    assert torch.equal(dataset.test_images, pixels_of(1, 6))


@pytest.mark.parametrize(
    ("places", "problem"),
    [
        (["data/my_train.parquet", "data/my_test.parquet"], "needs the splits train and test"),
        (["train-00000-of-00002.parquet", "test.parquet"], "has 1 of the 2 files"),
        (["a/train/0.parquet", "a/test/0.parquet", "b/train/0.parquet"], "unclear: .* in .*a/tr"),
    ],
)
def test_files_that_are_not_all_of_one_split_are_refused(
    places: list[str], problem: str, tmp_path: Path
) -> None:
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table_of(pixels_of(0, 10)), tmp_path / place)
    with pytest.raises(MissingDataError, match=problem):
        load(tmp_path)


def test_a_selection_that_is_saved_apart_from_its_rows_is_refused(saved: Path) -> None:
    path = saved / "train" / "state.json"
    state = json.loads(path.read_text()) | {"_indices_data_files": [{"filename": "indices.arrow"}]}
    path.write_text(json.dumps(state))
    with pytest.raises(MissingDataError, match="is a selection of rows"):
        load(saved)


def test_splits_that_name_their_classes_differently_are_refused(tmp_path: Path) -> None:
    for split, names in (("train", ["cat", "dog", "owl"]), ("test", ["dog", "cat", "owl"])):
        features = {"img": FEATURES["img"], "fine": {"names": names, "_type": "ClassLabel"}}
        metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
        table = table_of(pixels_of(0, 6)).replace_schema_metadata(metadata)
        parquet.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(MissingDataError, match="name classes differently"):
        load(tmp_path)
