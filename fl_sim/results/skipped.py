"""Cells that a grid left out, as summaries list them."""

from pathlib import Path
from typing import Any

import pandas as pd

from fl_sim.core.atomic_io import DamagedFileError
from fl_sim.results.folders import check_entry


def read_skipped(path: Path, content: dict[str, Any]) -> pd.DataFrame:
    """Return the skipped cells of a summary; those of earlier versions name none.

    Args:
        path: Path of the summary, for messages.
        content: Content of the summary.

    Raises:
        DamagedFileError: For an entry of another shape.
    """
    entries: Any = content.get("skipped", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DamagedFileError(path, "has no list of skipped")
    for entry in entries:
        check_entry(path, entry, ("settings", "seed", "label", "reason"))
    return pd.json_normalize(entries)
