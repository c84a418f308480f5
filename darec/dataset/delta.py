"""Delta Lake tables, on this machine or in an object store."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from darec.common.errors import DarecError, TransientError, UserError
from darec.common.extras import extra
from darec.common.objects import is_unencrypted
from darec.dataset.connections import CONNECTIONS, Since, TableConnection, expanded, without_values
from darec.dataset.databases import quoted
from schemas.places import DeltaTable

_NO_ACCESS = (
    "privileges",
    "credential",
    "403",
    "401",
    "accessdenied",
    "forbidden",
    "metadata/api/token",
    "metadata endpoint",
)


@CONNECTIONS.register(DeltaTable)
class Delta(TableConnection):
    """A Delta Lake table. Its state is its version."""

    def __init__(self, table: DeltaTable, role: str) -> None:
        self._table, self._role = table, role
        self._delta = extra("deltalake", "databases")
        self._errors = extra("deltalake.exceptions", "databases")

    def state(self) -> str:
        """The version, and the id of the table, which changes when the table is created again."""
        table = self._open()
        return f"{table.metadata().id} {table.version()}"

    @contextmanager
    def rows(self, since: Since | None = None) -> Iterator[pa.RecordBatchReader]:
        """The rows of the version."""
        where = f" WHERE {quoted(since.column)} >= {since.literal}" if since else ""
        query = self._delta.QueryBuilder().register("darec_rows", self._open())
        try:
            yield pa.RecordBatchReader.from_stream(query.execute(f"SELECT * FROM darec_rows{where}"))
        except (self._errors.DeltaError, pa.ArrowException, OSError, ValueError) as error:
            raise self._explained(error) from None

    def _open(self) -> Any:
        address = expanded(self._table.table, self._role)
        # The library reads credentials from the environment.
        options = {"max_retries": "4", "retry_timeout": "30s"}
        if is_unencrypted():
            options["allow_http"] = "true"

        try:
            return self._delta.DeltaTable(address, version=self._table.version, storage_options=options)
        except (self._errors.DeltaError, OSError, ValueError) as error:
            raise self._explained(error) from None

    def _explained(self, error: BaseException) -> DarecError:
        plain = re.sub(r"\x1b\[\d+m|↳", "", str(error))
        text = without_values(" ".join(plain.split()), self._table.table)
        where = self._table.table
        if isinstance(error, self._errors.TableNotFoundError):
            hint = f"correct data.{self._role}.table"
            return UserError("this is not a Delta table", where=where, hint=hint)

        if any(words in text.lower() for words in _NO_ACCESS):
            hint = "set the store's credentials in the environment of the run, such as AWS_ACCESS_KEY_ID"
            return UserError(f"the store gives no access ({text[:300]})", where=where, hint=hint)

        if isinstance(error, self._errors.SchemaMismatchError | ValueError) or "version" in text.lower():
            return UserError(f"the table cannot be read ({text[:300]})", where=where, hint=f"correct data.{self._role}")
        return TransientError(f"the table cannot be read ({text[:300]})", where=where, hint="check the store")
