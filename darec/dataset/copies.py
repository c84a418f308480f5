"""Local copies of remote sources, from which ingest reads.

<store>/sources/<source>/copy.json      the record: the source and the current generation
<store>/sources/<source>/<generation>/  the data; the previous generation is kept for runs that still read it
<store>/sources/<source>/draft/         a generation that is being written
<store>/sources/<source>/incoming/      files that an interrupted download had completed

A folder without a record has no copy yet, or is being deleted. Its files may contain people, too.

A draft becomes a generation by one rename, and the current copy by the replacement of the record: readers see the old
copy or the new one, even if the process is killed. Only the holder of the lease `sources` writes.
"""

import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from darec.common.errors import UserError
from darec.common.files import flush, replacing
from darec.common.hashing import canonical_json, digest
from darec.common.warnings import warn_once
from schemas.copies import COPY, COPY_FOLDERS, CopyRecord
from schemas.places import Table


def described(place: str | Table) -> str:
    """A place in one line, as the recipe gives it."""
    return place if isinstance(place, str) else canonical_json(_settings(place))


def copy_of(folder: Path, place: str | Table) -> "Copy":
    """The copy of a place, which may not exist yet."""
    settings = place if isinstance(place, str) else _settings(place)
    return Copy(folder / digest(settings)[:16])


def copies_in(folder: Path) -> "list[Copy]":
    """All copies in a folder, and what is left of those without a record: downloads that never ended, and copies whose
    deletion was killed.
    """
    folders = sorted(folder.glob(COPY_FOLDERS))
    return [Copy(path) for path in folders if any(inner.is_file() for inner in path.rglob("*"))]


def _settings(table: BaseModel) -> dict[str, object]:
    """The settings that determine which rows are read; the lag does not."""
    return table.model_dump(mode="json", exclude_defaults=True, exclude={"lag"})


@dataclass(frozen=True)
class Copy:
    """The copy of one source."""

    path: Path

    @property
    def record(self) -> CopyRecord | None:
        """The record; None if the source was never read or files are missing."""
        try:
            record = CopyRecord.model_validate_json((self.path / COPY).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            warn_once(f"the record of a copy cannot be read, so the source is read again [{self.path / COPY}]")
            return None
        return record if (self.path / record.generation).is_dir() else None

    @property
    def whole(self) -> CopyRecord | None:
        """The record, if all files have their sizes; None, with a warning, if the source must be read again."""
        if (record := self.record) is None:
            return None
        for name, size in record.bytes.items():
            path = self.path / record.generation / name
            if not path.is_file() or path.stat().st_size != size:
                warn_once(f"a file of a copy is missing or truncated, so the source is read again [{path}]")
                return None
        return record

    @property
    def folder(self) -> Path:
        """The folder of its data."""
        return self.path / self._there.generation

    @property
    def place(self) -> str:
        """The file, folder or glob to read, as `data.interactions` takes it."""
        inner, folder = self._there.inner, str(self.folder)
        if not inner:
            return folder
        return f"{glob.escape(folder) if glob.has_magic(inner) else folder}/{inner}"

    @property
    def _there(self) -> CopyRecord:
        if (record := self.record) is None:
            hint = "`darec run` and `darec data fetch` read it"
            raise UserError("this source has not been read yet", where=str(self.path), hint=hint)
        return record

    @property
    def incoming(self) -> Path:
        """A folder for files that are kept after a failed download."""
        path = self.path / "incoming"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """An empty folder for the next generation, which is removed at the end unless it was committed."""
        draft = self.path / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def commit(self, draft: Path, record: CopyRecord) -> None:
        """Makes a filled draft the current copy; `record.generation` is set."""
        before = self.record.generation if self.record else None
        numbers = [int(path.name) for path in self.path.iterdir() if path.name.isdecimal()]
        generation = f"{max(numbers, default=0) + 1:06d}"

        sizes = {}
        for path in draft.rglob("*"):
            flush(path)
            if path.is_file():
                sizes[path.relative_to(draft).as_posix()] = path.stat().st_size

        draft.rename(self.path / generation)
        self.update(record.model_copy(update={"generation": generation, "bytes": sizes}))
        self._remove_all_but(generation, before)

    def update(self, record: CopyRecord) -> None:
        """Replaces the record."""
        with replacing(self.path / COPY, durable=True) as draft:
            draft.write_text(record.model_dump_json(indent=1), encoding="utf-8")

    def only(self) -> None:
        """Removes older generations and unfinished downloads."""
        self._remove_all_but(self._there.generation, None)

    def delete(self) -> None:
        """Removes the copy, its record first."""
        (self.path / COPY).unlink(missing_ok=True)
        shutil.rmtree(self.path)

    def _remove_all_but(self, *names: str | None) -> None:
        for path in self.path.iterdir():
            if path.is_dir() and path.name not in names:
                shutil.rmtree(path, ignore_errors=True)


def parts_in(folder: Path) -> list[Path]:
    """The files of a table's rows in a generation, in order."""
    return sorted(folder.glob("part-*.parquet"))


def part_name(number: int) -> str:
    """The name of such a file."""
    return f"part-{number:06d}.parquet"


def link(source: Path, target: Path) -> None:
    """Makes a hard link, or a copy if the file system does not support hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
