"""Removes a person from the local copies of remote sources: a part of `darec forget`.

Copies of tables are rewritten without the person, because the source may no longer have the older rows. Files are
copied unchanged in any format, so copies of files with interactions or users are deleted, and the next run reads them
again.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from darec.common.errors import UserError
from darec.dataset.copies import Copy, copies_in, link, parts_in
from darec.dataset.ids import as_id, merge_key, tidied
from darec.dataset.incremental import rows_of
from darec.dataset.raw import RawTable
from schemas.copies import CopyRecord
from schemas.data import NULL_WORDS


@dataclass(frozen=True)
class CopiesOfPerson:
    """The copies in a folder that contain a person or may contain one."""

    folder: Path
    user_id: str

    @property
    def named(self) -> bool:
        """Whether a table lists the person."""
        return any(values is not None and len(values) for _, values in self._tables)

    def counts(self) -> dict[str, int]:
        """The number of copies to remove or rewrite, by kind."""
        rewritten = sum(values is not None and len(values) > 0 for _, values in self._tables)
        deleted = len(self._files) + sum(values is None for _, values in self._tables)
        return {"copies of tables rewritten": rewritten, "copies of files deleted": deleted}

    def remove(self) -> None:
        """Rewrites and deletes them, older generations and unfinished downloads included."""
        for copy in self._files:
            copy.delete()
        for copy, values in self._tables:
            if values is None:
                copy.delete()
            elif len(values):
                _rewrite(copy, values)
            else:
                copy.only()

    @cached_property
    def _people(self) -> list[tuple[Copy, CopyRecord | None]]:
        found = [(copy, copy.record) for copy in copies_in(self.folder)]
        return [(copy, record) for copy, record in found if record is None or record.holds_people]

    @property
    def _files(self) -> list[Copy]:
        return [copy for copy, record in self._people if record is None or not record.is_table]

    @cached_property
    def _tables(self) -> list[tuple[Copy, pl.Series | None]]:
        """Tables, each with the values of its user column that denote the person; None if unknown."""
        return [
            (copy, _values(copy, record, self.user_id)) for copy, record in self._people if record and record.is_table
        ]


def _values(copy: Copy, record: CopyRecord, user_id: str) -> pl.Series | None:
    """The values of the column of users that ingest reads as this id, under the name of the column; None if they
    cannot be read, or if a part lacks the column.
    """
    parts = parts_in(copy.folder)
    try:
        rows = rows_of(parts)
        column = _column(rows, record)
        if column is None or any(column not in pl.read_parquet_schema(part) for part in parts):
            return None
        given = RawTable(rows.select(column), copy.path, {column: column})
        ids = given.rows.select(value=pl.col(column), id=as_id(given, column)).unique().collect()
    except (pl.exceptions.PolarsError, UserError):
        return None

    pair = pl.DataFrame({"id": tidied(ids["id"], NULL_WORDS), "value": ids["value"]})
    key = merge_key(pl.col("id"), record.merge_ids)
    wanted = pl.select(merge_key(pl.lit(user_id), record.merge_ids)).item()
    return pair.filter(key == wanted)["value"].alias(column)


def _rewrite(copy: Copy, values: pl.Series) -> None:
    """Writes a generation without the rows that have one of the values, and removes the older ones."""
    record = copy.record
    assert record is not None
    with copy.draft() as draft:
        for part in parts_in(copy.folder):
            rows = pl.read_parquet(part, glob=False)
            user = pl.col(values.name).cast(values.dtype)  # parts may have other types, which ingest casts likewise
            kept = rows.filter(~user.is_in(values.implode()).fill_null(False))
            if kept.height < rows.height:
                kept.write_parquet(draft / part.name)
            else:
                link(part, draft / part.name)
        copy.commit(draft, record)

    copy.only()


def _column(rows: pl.LazyFrame, record: CopyRecord) -> str | None:
    names = rows.collect_schema().names()
    if isinstance(record.user, int):
        return names[record.user - 1] if 0 < record.user <= len(names) else None
    return record.user if record.user in names else None
