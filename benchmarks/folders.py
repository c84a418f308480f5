"""Reading a folder of benchmark data, and what is refused about it."""

from pathlib import Path

import numpy as np
import polars as pl
import torch
from polars.exceptions import PolarsError
from torch import Tensor

from darec.common.errors import UserError
from darec.common.interactions import Representations
from schemas import columns as c
from schemas.tables import PARTS

INTERACTIONS = "interactions.parquet"
TEXT_FILES = ("user_text.npy", "item_text.npy")
OTHERS = "name the data sets that you have: --only NAME,NAME"
"""The hint for a grid that has a data set which is not there."""

_LAYOUT = "user_id and item_id are numbers from 0, split is train, val or test: docs/results.md, 'Make the tables'"
_SPARSE = 10
"""Ids may be this many times as large as the number of distinct ids. Each number up to the largest takes memory."""
_MILLISECONDS = 10**11
"""Times from here on are not seconds, which would be in the year 5138."""


def read_interactions(name: str, folder: Path) -> pl.DataFrame:
    """The table of `interactions.parquet`: user_id, item_id, split, and timestamp if there is one.

    Raises:
        UserError: the file is missing or has another layout.
    """
    path = folder / INTERACTIONS
    if not path.is_file():
        hint = f"data/README.md says where data comes from; give its folder: --data {name}=FOLDER; or {OTHERS}"
        raise UserError(f"data set {name!r} does not exist", where=str(path), hint=hint)

    try:
        table = pl.read_parquet(path)
    except (PolarsError, OSError) as error:
        raise UserError(f"not a Parquet file: {error}", where=str(path), hint=_LAYOUT) from error

    wrong = _missing(table) or _wrong_ids(table) or _wrong_split(table) or _wrong_times(table)
    if wrong:
        raise UserError(wrong, where=str(path), hint=_LAYOUT)
    return table


def _missing(table: pl.DataFrame) -> str:
    missing = {c.USER, c.ITEM, c.SPLIT} - set(table.columns)
    return f"columns missing: {', '.join(sorted(missing))}" if missing else ""


def _wrong_ids(table: pl.DataFrame) -> str:
    for column in (c.USER, c.ITEM):
        ids = table[column]
        if not ids.dtype.is_integer():
            return f"{column} is {ids.dtype}, not a whole number"
        if ids.null_count():
            return f"{ids.null_count():,} rows have no {column}"
        lowest, highest = int(ids.min() or 0), int(ids.max() or 0)  # type: ignore[arg-type]
        if lowest < 0:
            return f"{column} {lowest} is negative"
        if highest >= _SPARSE * max(ids.n_unique(), 100):
            return f"{column} goes up to {highest:,}, but there are {ids.n_unique():,} of them"

    repeated = table.height - table.select(c.USER, c.ITEM).n_unique()
    return f"{repeated:,} rows repeat the user and the item of another row" if repeated else ""


def _wrong_split(table: pl.DataFrame) -> str:
    known = set(table[c.SPLIT].cast(pl.String).unique().to_list())
    strange = sorted(map(str, known - set(PARTS)))
    if strange:
        return f"split has the values {', '.join(strange[:5])}"
    absent = [part for part in PARTS if part not in known]
    return f"no row has the split {' or '.join(absent)}" if absent else ""


def _wrong_times(table: pl.DataFrame) -> str:
    if c.TIMESTAMP not in table.columns:
        return ""
    times = table[c.TIMESTAMP]
    if not times.dtype.is_integer():
        return f"{c.TIMESTAMP} is {times.dtype}, not whole seconds since 1970"
    highest = int(times.max() or 0)  # type: ignore[arg-type]
    return f"{c.TIMESTAMP} {highest} is not in seconds since 1970" if highest >= _MILLISECONDS else ""


def read_text(folder: Path, n_users: int, n_items: int) -> Representations | None:
    """The text vectors, or None if the folder has none. There may be more rows than users or items with interactions.

    Raises:
        UserError: one of the two files is missing, or they do not fit the interactions or each other.
    """
    paths = [folder / file for file in TEXT_FILES]
    absent = [path for path in paths if not path.is_file()]
    if len(absent) == len(paths):
        return None
    if absent:
        hint = "the vector of a user may be the mean of those of their train items; without text, remove both files"
        raise UserError(f"one of {' and '.join(TEXT_FILES)} is missing", where=str(absent[0]), hint=hint)

    user, item = (_vectors(path, rows) for path, rows in zip(paths, (n_users, n_items), strict=True))
    if user.shape[1] != item.shape[1]:
        hint = "use one encoder for users and items"
        raise UserError(f"users have {user.shape[1]} columns, items {item.shape[1]}", where=str(folder), hint=hint)
    return Representations.join(user, item)


def _vectors(path: Path, rows: int) -> Tensor:
    """The matrix of a file, float32 [n, d] with n >= `rows`."""
    hint = "save one row of numbers per id, from 0 to the largest id, with numpy.save"
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise UserError(f"not a NumPy file of numbers: {error}", where=str(path), hint=hint) from error

    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise UserError(f"a matrix of numbers is needed, not {array.dtype} {array.shape}", where=str(path), hint=hint)
    if len(array) < rows:
        raise UserError(f"{len(array):,} rows for ids up to {rows - 1:,}", where=str(path), hint=hint)
    if not np.isfinite(array).all():
        raise UserError("some values are not finite", where=str(path), hint="give rows without text a vector of zeros")
    return torch.from_numpy(array.astype(np.float32))
