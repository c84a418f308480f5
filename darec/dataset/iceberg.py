"""Apache Iceberg tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from darec.common.errors import DarecError, TransientError, UserError
from darec.common.extras import extra
from darec.dataset.connections import CONNECTIONS, Since, TableConnection
from schemas.places import IcebergTable

if TYPE_CHECKING:
    import pyarrow as pa


@CONNECTIONS.register(IcebergTable)
class Iceberg(TableConnection):
    """A table of a catalog that is configured by the environment. Its state is the id of its snapshot."""

    def __init__(self, table: IcebergTable, role: str) -> None:
        self._table, self._role = table, role
        self._catalogs = extra("pyiceberg.catalog", "databases")
        self._errors = extra("pyiceberg.exceptions", "databases")

    def state(self) -> str:
        """The table's id and snapshot."""
        table = self._open()
        return f"{table.metadata.table_uuid} {self._snapshot(table)}"

    @contextmanager
    def rows(self, since: Since | None = None) -> "Iterator[pa.RecordBatchReader]":
        """The rows of the snapshot."""
        from pyiceberg.expressions import AlwaysTrue, GreaterThanOrEqual

        table = self._open()
        bound = GreaterThanOrEqual(since.column, since.value) if since else AlwaysTrue()  # pyright: ignore[reportCallIssue]
        try:
            yield table.scan(row_filter=bound, snapshot_id=self._snapshot(table)).to_arrow_batch_reader()
        except (ValueError, TypeError) as error:
            raise self._refused(error) from None
        except OSError as error:
            raise self._unreachable(error) from None

    def _open(self) -> Any:
        try:
            return self._catalogs.load_catalog(self._table.catalog).load_table(self._table.table)
        except (self._errors.NoSuchTableError, self._errors.NoSuchNamespaceError) as error:
            raise self._refused(error) from None
        except (self._errors.UnauthorizedError, self._errors.ForbiddenError) as error:
            raise self._refused(error, f"set {self._variable('CREDENTIAL')} or {self._variable('TOKEN')}") from None
        except (ValueError, ImportError) as error:
            raise self._refused(error, f"set {self._variable('URI')} in the environment of the run") from None
        except Exception as error:  # each kind of catalog raises different errors
            raise self._unreachable(error) from None

    def _snapshot(self, table: Any) -> int | None:
        newest = table.current_snapshot()
        return self._table.snapshot or (newest.snapshot_id if newest else None)

    def _variable(self, name: str) -> str:
        return f"PYICEBERG_CATALOG__{self._table.catalog.upper()}__{name}"

    def _refused(self, error: BaseException, hint: str = "") -> DarecError:
        what = f"the table cannot be read ({' '.join(str(error).split())[:300]})"
        return UserError(what, where=self._where, hint=hint or f"correct data.{self._role}.table and .catalog")

    def _unreachable(self, error: BaseException) -> DarecError:
        what = f"the catalog cannot be read ({' '.join(str(error).split())[:300]})"
        hint = f"check the catalog and {self._variable('URI')}"
        return TransientError(what, where=self._where, hint=hint)

    @property
    def _where(self) -> str:
        return f"{self._table.table} in the catalog {self._table.catalog}"
