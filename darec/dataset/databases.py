"""Query results: PostgreSQL, and any database with an ADBC driver."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from darec.common.errors import DarecError, TransientError, UserError
from darec.common.extras import extra
from darec.common.files import regular_file
from darec.dataset.connections import CONNECTIONS, Since, TableConnection, expanded, without_values
from schemas.places import ADBCTable, PostgreSQLTable

if TYPE_CHECKING:
    import pyarrow as pa

_CONNECT_SECONDS = 10
_USERS_TO_FIX = (
    "authentication failed", "no password supplied", "does not exist", "no such", "permission denied", "denied",
    "unauthorized", "not authorized", "syntax error",
)  # fmt: skip


def selected(query: str, since: Since | None, what: str = "*", quote: str = '"') -> str:
    """The statement that selects `what` from a query's rows, all or those not below a bound."""
    # A line break follows the query, so that a comment at its end hides nothing.
    statement = f"SELECT {what} FROM (\n{query.strip().rstrip(';')}\n) AS darec_rows"
    return f"{statement} WHERE {quoted(since.column, quote)} >= {since.literal}" if since else statement


def counted(since: Since, quote: str = '"') -> str:
    """The columns that `TableConnection.newest` selects."""
    return f"COUNT(*) AS rows_found, MAX({quoted(since.column, quote)}) AS newest"


def quoted(column: str, quote: str = '"') -> str:
    """The name of a column in SQL."""
    return f"{quote}{column.replace(quote, quote * 2)}{quote}"


class Database(TableConnection):
    """A database with an ADBC driver."""

    def __init__(self, query: str, driver: str, role: str, where: str, addresses: str, quote: str = '"') -> None:
        self._query, self._role, self._where, self._addresses, self._quote = query, role, where, addresses, quote
        self._errors = extra("adbc_driver_manager.dbapi", "databases")
        try:
            self._driver = import_module(f"{driver}.dbapi")
        except ModuleNotFoundError as error:
            if (error.name or "") not in (driver, f"{driver}.dbapi"):
                raise
            hint = f"install the package {driver.replace('_', '-')}"
            raise UserError(f"the driver {driver} is not installed", where=where, hint=hint) from error

    def options(self) -> tuple[list[str], dict[str, Any]]:
        """The arguments of the driver's `connect`."""
        raise NotImplementedError

    def state(self) -> None:
        """Databases have no version of their content."""

    @contextmanager
    def rows(self, since: Since | None = None) -> "Iterator[pa.RecordBatchReader]":
        """The rows of the query."""
        with self._reading(selected(self._query, since, quote=self._quote)) as reader:
            yield reader

    @contextmanager
    def newest(self, since: Since) -> "Iterator[pa.RecordBatchReader]":
        """The number of rows not below a bound, and the greatest value."""
        with self._reading(selected(self._query, since, counted(since, self._quote), self._quote)) as reader:
            yield reader

    @contextmanager
    def _reading(self, statement: str) -> "Iterator[pa.RecordBatchReader]":
        arguments, options = self.options()
        try:
            with self._driver.connect(*arguments, **options) as connection, connection.cursor() as cursor:
                cursor.execute(statement)
                yield cursor.fetch_record_batch()
        except self._errors.Error as error:
            raise self._explained(error) from None

    def _explained(self, error: Any) -> DarecError:
        lines = [line for line in str(error).splitlines() if not line.startswith("Query was")]
        text = without_values(" ".join(" ".join(lines).split()), self._addresses)
        text = re.split(r" LINE \d+:", text)[0][:400]
        is_query = isinstance(error, self._errors.ProgrammingError) or (error.sqlstate or "").startswith("42")
        if is_query or any(words in text.lower() for words in _USERS_TO_FIX):
            hint = f"correct data.{self._role}.query, or the credentials in the environment of the run"
            return UserError(f"the database refuses the query ({text})", where=self._where, hint=hint)

        hint = "check the network, the server and the variables of the environment"
        return TransientError(f"the database cannot be read ({text})", where=self._where, hint=hint)


@CONNECTIONS.register(PostgreSQLTable)
class PostgreSQL(Database):
    """A PostgreSQL server. Missing parts of the address are read from PGHOST, PGUSER, PGPASSWORD
    and other variables.
    """

    def __init__(self, table: PostgreSQLTable, role: str) -> None:
        extra("adbc_driver_postgresql", "databases")
        self._table = table
        super().__init__(table.query, "adbc_driver_postgresql", role, table.url, table.url)

    def options(self) -> tuple[list[str], dict[str, Any]]:
        """The address, with a timeout for connecting."""
        url = expanded(self._table.url, self._role)
        if "connect_timeout=" not in url:
            url += f"{'&' if '?' in url else '?'}connect_timeout={_CONNECT_SECONDS}"
        return [url], {}


@CONNECTIONS.register(ADBCTable)
class ADBC(Database):
    """A database with any ADBC driver."""

    def __init__(self, table: ADBCTable, role: str) -> None:
        self._table = table
        addresses = " ".join([table.url or "", *table.options.values()])
        where = f"{table.driver} {table.url or ''}".strip()
        super().__init__(table.query, table.driver, role, where, addresses, table.quote)

    def options(self) -> tuple[list[str], dict[str, Any]]:
        """The address, and the options of the driver."""
        url = [expanded(self._table.url, self._role)] if self._table.url is not None else []
        file = _sqlite_file(url[0]) if url and self._table.driver == "adbc_driver_sqlite" else None
        if file is not None:  # SQLite would create it
            regular_file(file, "the SQLite file", hint=f"correct data.{self._role}.url")
        options = {name: expanded(value, self._role) for name, value in self._table.options.items()}
        return url, {"db_kwargs": options} if options else {}


def _sqlite_file(url: str) -> Path | None:
    """The file of an address of SQLite, which is a path or a URI; None for a database in memory."""
    uri = re.fullmatch(r"file:(?://[^/]*)?([^?#]*)(.*)", url, re.DOTALL)
    path, rest = (unquote(uri[1]), uri[2]) if uri else (url, "")
    in_memory = path in ("", ":memory:") or "mode=memory" in rest or "vfs=memdb" in rest
    return None if in_memory else Path(path)
