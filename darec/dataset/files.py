"""Resolves a place in a recipe to files: a file, a folder, a glob, a list of these, or one each for train, val and
test.
"""

import glob
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from darec.common.errors import DarecError, UserError
from darec.common.files import regular_file
from schemas.places import Files, Part, Table

_PARTITION = re.compile(r"([A-Za-z_]\w*)=(.*)")  # a folder of a hive-partitioned data set: date=2024-01-31
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")


@dataclass(frozen=True)
class SourceFile:
    """One file of a source."""

    path: Path
    part: Part | None = None
    """The part of the split that its rows belong to, if the recipe gives it."""
    partition: tuple[tuple[str, str | None], ...] = ()
    """Columns whose values are in the names of folders (hive partitions): name and value."""


def expand(place: Files, role: str) -> list[SourceFile]:
    """All files of `place`, each checked to be a readable regular file, in a fixed order.

    Args:
        place: as the recipe gives it.
        role: interactions, items or users, for messages.

    Raises:
        UserError: a file is missing, not a regular file or not readable; a glob or folder has no data files.
        DarecError: `place` is a table, which is read only through its copy.
    """
    if isinstance(place, Table):
        raise DarecError("a table has no files until it is copied", where=f"data.{role}", hint="report this as a bug")
    if isinstance(place, dict):
        return [
            SourceFile(file.path, part, file.partition)
            for part, places in place.items()
            for file in expand(places, role)
        ]

    places = (place,) if isinstance(place, str) else place
    files = [file for each in places for file in _expand_one(each, role)]
    if not files:
        raise UserError(f"no {role} file is named", where=f"data.{role}", hint=f"name files in data.{role}")
    for file in files:
        check_file(file.path, role)
    return files


def check_file(path: Path, role: str) -> Path:
    """`path`, if it is a readable regular file. Raises UserError otherwise."""
    hint = f"correct data.{role}"
    if not path.is_absolute():
        hint += ", or run in another folder: a path is relative to where darec is run"
    regular_file(path, f"the {role} file", hint=hint)
    try:
        path.open("rb").close()
    except OSError as error:
        what = f"the {role} file cannot be opened ({error.strerror})"
        raise UserError(what, where=str(path), hint="make it readable for this user") from error
    return path


def _expand_one(place: str, role: str) -> Iterator[SourceFile]:
    path = Path(place)
    if path.is_dir():
        yield from _files_below(path, path, role)
    elif path.exists() or not glob.has_magic(place):
        yield SourceFile(path)
    else:
        matches = sorted(glob.glob(place, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        found = [Path(match) for match in matches if not is_hidden(Path(match).name)]
        if not found:
            raise UserError(f"no file matches the {role} glob", where=place, hint=f"correct data.{role}")
        root = Path(*fixed_parts(path.parts))
        for match in found:
            if match.is_dir():
                yield from _files_below(match, root, role)
            else:
                yield SourceFile(match, partition=_partition(match, root))


def _files_below(folder: Path, root: Path, role: str) -> Iterator[SourceFile]:
    """The data files of a folder and its subfolders; names below `root` may be partitions.

    As in Spark, Hive and Polars, files and folders whose names begin with `.` or `_` are ignored (`_SUCCESS`).
    """
    found = [path for path in sorted(folder.rglob("*")) if not path.is_dir()]
    found = [path for path in found if not any(is_hidden(name) for name in path.relative_to(folder).parts)]
    kinds = sorted({kind_of(path) for path in found})
    if not found:
        hint = f"name the {role} file itself, or a folder that holds data"
        raise UserError(
            f"this is a folder, not a file, and there are no {role} files in it", where=str(folder), hint=hint
        )

    if len(kinds) > 1:
        what = f"this is a folder, not a file, and it holds files of several kinds ({', '.join(kinds)})"
        example = folder / f"*{kind_of(found[0])}"
        raise UserError(what, where=str(folder), hint=f"name the {role} file itself, or a glob such as {example}")

    for path in found:
        yield SourceFile(path, partition=_partition(path, root))


def kind_of(path: Path) -> str:
    """The suffix that determines the layout: `.csv` of `part-0.csv.gz`."""
    suffixes = [suffix for suffix in path.suffixes if suffix not in _PACKED]
    return suffixes[-1] if suffixes else "no suffix"


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is ignored, as in Spark, Hive and Polars (`_SUCCESS`)."""
    return name.startswith((".", "_"))


def fixed_parts(parts: Sequence[str]) -> list[str]:
    """The names of a glob before the first one with a wildcard."""
    return list(itertools.takewhile(lambda part: not glob.has_magic(part), parts))


def _partition(path: Path, root: PurePath) -> tuple[tuple[str, str | None], ...]:
    matches = [_PARTITION.fullmatch(part) for part in path.relative_to(root).parts[:-1]]
    return tuple((match[1], None if match[2] == _HIVE_NULL else match[2]) for match in matches if match)
