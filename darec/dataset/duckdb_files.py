"""Query results from DuckDB files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from darec.common.errors import TransientError, UserError
from darec.common.extras import extra
from darec.common.files import regular_file
from darec.dataset.connections import CONNECTIONS, Since, TableConnection
from darec.dataset.databases import selected
from schemas.places import DuckDBTable

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 100_000


@CONNECTIONS.register(DuckDBTable)
class DuckDB(TableConnection):
    """A DuckDB file, opened read-only. Its state is the size and modification time of the file and of its log."""

    def __init__(self, table: DuckDBTable, role: str) -> None:
        self._table, self._role = table, role
        self._duckdb = extra("duckdb", "databases")

    def state(self) -> str:
        """Size and modification time."""
        path = Path(self._table.file)
        facts = [regular_file(path, "the DuckDB file", hint=f"correct data.{self._role}.file")]
        log = path.with_name(path.name + ".wal")
        facts += [log.stat()] if log.exists() else []
        return " ".join(f"{each.st_size} {each.st_mtime_ns}" for each in facts)

    @contextmanager
    def rows(self, since: Since | None = None) -> "Iterator[pa.RecordBatchReader]":
        """The rows of the query."""
        self.state()  # checked here, because DuckDB's message for a missing file is less clear
        try:
            with self._duckdb.connect(self._table.file, read_only=True) as connection:
                yield connection.sql(selected(self._table.query, since)).to_arrow_reader(_BATCH)
        except self._duckdb.IOException as error:
            what = f"the DuckDB file cannot be opened ({_first_line(error)})"
            if "not a valid DuckDB" in what:
                raise UserError(what, where=self._table.file, hint=f"correct data.{self._role}.file") from None
            hint = "end the process that writes to it"
            raise TransientError(what, where=self._table.file, hint=hint) from None
        except self._duckdb.Error as error:
            hint = f"correct data.{self._role}.query"
            raise UserError(
                f"DuckDB refuses the query ({_first_line(error)})", where=self._table.file, hint=hint
            ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
