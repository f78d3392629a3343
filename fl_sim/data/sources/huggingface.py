"""Datasets of Hugging Face on this disk: folders of `save_to_disk`, and Parquet files."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, final

import torch
from jaxtyping import Int64
from torch import Tensor

from fl_sim.contracts import Dataset
from fl_sim.data.arrays import MAX_CLASSES
from fl_sim.data.image_files import MixedSizesError, escape, read_batch
from fl_sim.data.sources import MissingDataError, Source
from fl_sim.data.splits import choose_test_split, parse_split, split_stratified

# End of the file names of the Hub: shard, number of shards, and a hash in older datasets.
SHARD = re.compile(r"(-\d{5}-of-(\d{5})(-[0-9a-f]{16})?)?\.parquet$")
LABELS = ("label", "labels")  # names of a column of labels without the feature ClassLabel


class Rows(NamedTuple):
    """The images and labels of a split.

    Attributes:
        files: Contents of the image files.
        labels: Positions in `names`, whole numbers, or texts, as the column holds them.
        names: Names of the labels, if the column is a ClassLabel.
        unread: Other columns of images or labels.
    """

    files: list[bytes]
    labels: list[Any]
    names: tuple[str, ...]
    unread: tuple[str, ...]


@final
class HuggingFace(Source):
    """A dataset of Hugging Face in data.path: a folder of `save_to_disk`, or Parquet files.

    The folder is one that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` has written, or it
    holds Parquet files that are named after their split, as on the Hub
    (`train-00000-of-00001.parquet`). Images are the first column with the feature `Image`. Labels
    are the first column with the feature `ClassLabel`, whose names are kept, or else the column
    `label` of whole numbers or texts. `validation` is tested on if there is no `test`; without
    either, a fixed random fifth of each class is set apart for testing. The files are read with
    pyarrow: `datasets` need not be installed, none of its code runs, and nothing is unpickled.

    Source: Lhoest et al. (2021), Datasets, https://arxiv.org/abs/2109.02846.
    """

    name: ClassVar[str] = "huggingface"

    def load(self, path: Path | None, fetch: bool = True) -> Dataset:
        """Return the images, which have to be of one size."""
        return self.load_scaled(path, None)

    def load_scaled(self, path: Path | None, side: int | None) -> Dataset:
        """Return the images; if they are scaled, they may differ in size."""
        if path is None or not path.exists():
            got = None if path is None else escape(path)
            allowed = "a folder that `save_to_disk` has written, or Parquet files"
            raise MissingDataError(f"data.path: expected {allowed}; got {got}")
        files = _find_files(path)
        used, notes = _choose_splits(path, list(files))
        splits = [_read_rows(files[split], split) for split in used]
        names, encoded = _encode_labels(path, splits)
        notes += [f"the column {name} is not read" for name in splits[0].unread]
        labels, count = torch.cat(encoded), len(encoded[0])
        if missing := len(names) - len(encoded[0].unique()):
            notes.append(f"{missing} of {len(names)} classes without a training image")
        train, test = list(range(count)), list(range(count, len(labels)))
        if len(splits) == 1:
            train, test = split_stratified([names[label] for label in labels.tolist()], self.name)
            notes.append("a fifth of each class set apart for testing")
        contents = [content for rows in splits for content in rows.files]
        places = [
            f"{split or path.name}[{row}]"
            for split, rows in zip(used, splits, strict=True)
            for row in range(len(rows.files))
        ]
        try:
            batch = read_batch(contents, places, path, side)
        except MixedSizesError as error:
            raise MissingDataError(f"{error}; or set data.side, such as 64") from None
        return Dataset(
            name=self.name,
            train_images=batch.pixels[train],
            train_labels=labels[train],
            test_images=batch.pixels[test],
            test_labels=labels[test],
            class_names=names,
            origin=str(path),
            notes=(*notes, *batch.notes),
        )


def _find_files(path: Path) -> dict[str, list[Path]]:
    """Return the Arrow or Parquet files of each split, by its name; one without a name has none."""
    if path.suffix == ".parquet":
        return {"": [path]}
    if (path / "dataset_dict.json").is_file():
        splits = _read_json(path / "dataset_dict.json").get("splits", [])
        return {str(split): _find_shards(path / Path(str(split)).name) for split in splits}
    if (path / "state.json").is_file():
        return {"": _find_shards(path)}
    files: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*.parquet")):
        folder = "" if file.parent == path else file.parent.name
        own = SHARD.sub("", file.name)
        named = own if parse_split(own) or not parse_split(folder) else folder
        files.setdefault(named, []).append(file)
    if not files:
        raise MissingDataError(
            f"data.path: {escape(path)} has no dataset_dict.json or state.json, which "
            "`save_to_disk` writes, and no .parquet files"
        )
    for split, shards in files.items():
        _check_shards(path, split, shards)
    return files


def _check_shards(path: Path, split: str, files: Sequence[Path]) -> None:
    """Refuse files that are not all of one split: some lack, or several datasets have it.

    Raises:
        MissingDataError: If they are not.
    """
    if len(folders := sorted({escape(file.parent) for file in files})) > 1:
        raise MissingDataError(
            f"unclear: {escape(path)} has the split {escape(split)} in {' and '.join(folders)}: "
            "give the folder of one of them as data.path"
        )
    for file in files:
        shard = SHARD.search(file.name)
        if shard and shard[2] and int(shard[2]) != len(files):
            raise MissingDataError(
                f"data.path: {escape(file.parent)} has {len(files)} of the {int(shard[2])} files "
                f"of the split {escape(split)}"
            )


def _find_shards(folder: Path) -> list[Path]:
    """Return the Arrow files that a folder of `Dataset.save_to_disk` lists.

    Raises:
        MissingDataError: If they hold rows that were left out, as early versions of `datasets`
            saved a selection.
    """
    state = _read_json(folder / "state.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise MissingDataError(
            f"data.path: {escape(folder)} is a selection of rows that is saved apart from them: "
            "save the dataset again with a newer version of `datasets`"
        )
    listed = state.get("_data_files", [])
    return [folder / Path(str(entry["filename"])).name for entry in listed]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return _parse_json(path.read_bytes(), path)
    except OSError as error:
        raise MissingDataError(
            f"data.path: {escape(path)} cannot be read: {error.strerror}"
        ) from None


def _parse_json(text: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise MissingDataError(f"data.path: {escape(path)} holds no JSON: {error}") from None
    return content if isinstance(content, dict) else {}


def _choose_splits(path: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the splits that are used, that to train on first, and notes for the user."""
    if len(names) == 1:
        return list(names), []
    by_use: dict[str, str] = {}
    for name in names:
        use = parse_split(name)
        if use and use in by_use:
            both = f"{by_use[use]} and {name}"
            raise MissingDataError(f"unclear: {both} in {escape(path)} are the same split")
        by_use |= {use: name} if use else {}
    problem = f"data.path: {escape(path)} needs the splits train and test; it has {names}"
    test, note = choose_test_split(by_use, problem)
    unread = [name for name in names if not parse_split(name)]
    notes = [note] if note else []
    notes += [f"{', '.join(unread)} not read"] if unread else []
    return [by_use["train"], by_use[test]], notes


def _read_rows(files: Sequence[Path], split: str) -> Rows:
    """Return the images and labels of a split.

    Raises:
        MissingDataError: If a file is damaged, or has no images or labels.
    """
    import pyarrow as pa  # a tenth of a second to import, for this dataset alone

    try:
        tables = [_read_table(file) for file in files]
        table = pa.concat_tables(tables) if tables else pa.table({})
    except (pa.ArrowException, OSError) as error:
        cause = escape(str(error).splitlines()[0])
        raise MissingDataError(
            f"data.path: a file of {split or files[0]} is damaged: {cause}"
        ) from None
    features = _read_features(table.schema, files)
    image, label, unread = _choose_columns(table.schema, features, files)
    contents = [
        content for chunk in table[image].chunks for content in _list_contents(chunk, split)
    ]
    if not contents:
        raise MissingDataError(
            f"no images in the split {split or 'train'} of {escape(files[0].parent)}"
        )
    names = tuple(map(str, features.get(label, {}).get("names") or ()))
    return Rows(contents, table[label].to_pylist(), names, unread)


def _read_table(file: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    if file.suffix == ".parquet":
        return parquet.read_table(file, partitioning=None)
    with pa.memory_map(str(file)) as stream:
        return pa.ipc.open_stream(stream).read_all()


def _read_features(schema: Any, files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return the features that `datasets` keeps in the files, or beside them, by column."""
    kept = (schema.metadata or {}).get(b"huggingface")
    info = files[0].parent / "dataset_info.json" if files else Path()
    features: Any = {}
    if kept:
        features = _parse_json(kept, files[0]).get("info", {}).get("features")
    elif info.is_file():
        features = _read_json(info).get("features")
    return {name: f for name, f in (features or {}).items() if isinstance(f, dict)}


def _choose_columns(
    schema: Any, features: Mapping[str, Mapping[str, Any]], files: Sequence[Path]
) -> tuple[str, str, tuple[str, ...]]:
    """Return the columns of images and labels, and others of these kinds, which are not read."""
    kinds = {name: features.get(name, {}).get("_type") for name in schema.names}
    images = [n for n in schema.names if kinds[n] == "Image" or _holds_files(schema.field(n).type)]
    labels = [name for name in schema.names if kinds[name] == "ClassLabel"]
    labels = labels or [name for name in schema.names if name in LABELS]
    for found, wanted in ((images, "of images"), (labels, "of class labels, or named label")):
        if not found:
            place = escape(files[0].parent) if files else "data.path"
            columns = ", ".join(map(str, schema.names)) or "nothing"
            raise MissingDataError(f"no column {wanted} in {place}: it holds {escape(columns)}")
    return images[0], labels[0], (*images[1:], *labels[1:])


def _holds_files(kind: Any) -> bool:
    """Return whether a column's type is that of Image: the content of a file, and its path."""
    import pyarrow as pa

    return bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def _list_contents(chunk: Any, split: str) -> list[bytes]:
    import pyarrow as pa

    contents = chunk.field("bytes") if pa.types.is_struct(chunk.type) else chunk
    if contents.null_count:
        raise MissingDataError(
            f"data.path: {contents.null_count} images of the split {split or 'train'} are not in "
            "its files, which only name them: save the dataset with its images embedded"
        )
    listed: list[bytes] = contents.to_pylist()
    return listed


def _encode_labels(
    path: Path, splits: Sequence[Rows]
) -> tuple[tuple[str, ...], list[Int64[Tensor, " n"]]]:
    """Return the names of the classes, and the labels of each split as positions among them.

    Raises:
        MissingDataError: If an image has no label, or the splits name their classes differently.
    """
    every = [label for rows in splits for label in rows.labels]
    names = splits[0].names
    if any(rows.names != names for rows in splits):
        raise MissingDataError(f"data.path: the splits of {escape(path)} name classes differently")
    if all(isinstance(label, str) for label in every):
        names = tuple(sorted(set(every)))
        codes = {name: code for code, name in enumerate(names)}
        return names, [torch.tensor([codes[label] for label in rows.labels]) for rows in splits]
    last = (len(names) or MAX_CLASSES) - 1
    for label in every:
        if type(label) is not int or not 0 <= label <= last:
            wanted = f"whole numbers from 0 to {last}{'' if names else ', or texts'}"
            raise MissingDataError(
                f"data.path: expected the labels in {escape(path)} as {wanted}; got {label!r}"
            )
    names = names or tuple(str(label) for label in range(max(every) + 1))
    return names, [torch.tensor(rows.labels) for rows in splits]
