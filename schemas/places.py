"""Locations of data: files and URLs, given as text, and tables of databases and lakes, which are sections.

No password is part of a place. `${NAME}` stands for the variable NAME of the environment, in any address; it is
replaced when the source is opened (`darec.dataset.connections`), never before.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from schemas.section import Section

REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*)\}")
"""A variable of the environment in an address."""
OBJECT_STORES = ("s3", "gs", "az")
"""Schemes of object stores."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PASSWORD = re.compile(r"://[^@/\s]*:(?!\d+/)[^@\s]+@")
_SECRET_NAME = r"[\w.-]*(?:key|token|secret|passw|pwd|sig|signature|credential)[\w.-]*"
_SECRET_VALUE = re.compile(rf"(?i)(?:^|[?&;\s]){_SECRET_NAME}=[^&;\s]+")
_NO_SECRETS = "a password or token is written in it: put ${NAME} in its place and set NAME in the environment"


def scheme(place: str) -> str | None:
    """The scheme of a URL, in lower case; None for a path."""
    match = _SCHEME.match(place)
    return match[1].lower() if match else None


def _without_secret(address: str) -> str:
    """Refuses an address that holds a password. The value is not shown in the error (`schemas.secret`)."""
    plain = REFERENCE.sub("", address)
    if _PASSWORD.search(plain) or _SECRET_VALUE.search(plain):
        raise PydanticCustomError("secret_url", _NO_SECRETS)
    return address


def _place(value: object) -> object:
    """A path or URL as text; a URL must be one that darec reads."""
    if isinstance(value, Path):
        return os.fspath(value)
    if not isinstance(value, str) or (kind := scheme(value)) is None:
        return value

    _without_secret(value)
    if kind in (*OBJECT_STORES, "https"):
        return value
    if kind == "http":
        host = value.partition("://")[2].partition("/")[0].rpartition(":")
        if (host[0] or host[2]) in ("127.0.0.1", "localhost", "[::1]"):
            return value
        raise PydanticCustomError("secret_url", "http:// is not encrypted: use https://")

    if kind in ("postgresql", "postgres"):
        raise PydanticCustomError(
            "secret_url", "a database needs a query, in a section with kind: postgresql, url and query"
        )

    known = ", ".join(f"{name}://" for name in (*OBJECT_STORES, "https"))
    raise PydanticCustomError("secret_url", f"files are not read from {kind}://; known: {known}")  # type: ignore[arg-type]


Place = Annotated[str, BeforeValidator(_place)]
"""A file, folder or glob on this machine or in an object store, or an https address."""
Address = Annotated[str, BeforeValidator(lambda value: _without_secret(value) if isinstance(value, str) else value)]
"""An address that may hold `${NAME}`, and no password."""


class Table(Section):
    """A table. It is first read as a whole. With a `watermark`, later reads fetch only new rows."""

    watermark: str | None = None
    """A column whose value increases with every inserted row, such as an id or the time of insertion. A run then reads
    only rows with at least the largest value that was read before. null: a run reads all rows whenever the source may
    have changed."""
    lag: float = Field(default=0.0, ge=0)
    """Distance below the largest value of `watermark` at which a read starts, so that rows which arrive late are
    included. In days for times and dates, in the unit of the column for numbers. Rows that were read before are not
    added again."""
    key: tuple[str, ...] = ()
    """Columns that identify a row. A newly read row replaces the row with the same values. Only with `watermark`."""

    @field_validator("key")
    @classmethod
    def _needs_watermark(cls, key: tuple[str, ...], info: Any) -> tuple[str, ...]:
        if key and info.data.get("watermark") is None:
            raise ValueError("key needs watermark: without it all rows are read each time")
        return key


class PostgreSQLTable(Table):
    """The result of a query in PostgreSQL."""

    kind: Literal["postgresql"]
    url: Address = Field(default="postgresql://", pattern="^(postgresql|postgres)://|^\\$\\{")
    """The server and database, such as postgresql://reader@db.example.com/shop. Missing parts are taken from the
    environment variables PGHOST, PGPORT, PGDATABASE, PGUSER and PGPASSWORD, or ~/.pgpass."""
    query: str = Field(min_length=1)
    """A SELECT statement."""


class ADBCTable(Table):
    """The result of a query in a database that has an ADBC driver (Snowflake, BigQuery, SQLite, Flight SQL, ...)."""

    kind: Literal["adbc"]
    driver: str = Field(min_length=1)
    """The Python package of the driver, such as adbc_driver_snowflake. It must be installed."""
    url: Address | None = None
    """The driver's option `uri`."""
    options: dict[str, Address] = Field(default_factory=dict)
    """Other options of the driver, by name."""
    quote: Literal['"', "`"] = '"'
    """The character that quotes column names in the SQL of the database: ` in BigQuery and MySQL."""
    query: str = Field(min_length=1)
    """A SELECT statement."""

    @field_validator("options", mode="before")
    @classmethod
    def _without_secrets(cls, options: Any) -> Any:
        for name, value in options.items() if isinstance(options, dict) else ():
            if re.fullmatch(_SECRET_NAME, str(name), re.IGNORECASE) and REFERENCE.sub("", str(value)):
                raise PydanticCustomError("secret_url", _NO_SECRETS)
        return options


class DuckDBTable(Table):
    """The result of a query in a DuckDB file."""

    kind: Literal["duckdb"]
    file: str = Field(min_length=1)
    """The path of the database. It is opened for reading only."""
    query: str = Field(min_length=1)
    """A SELECT statement."""


class DeltaTable(Table):
    """A Delta Lake table."""

    kind: Literal["delta"]
    table: Place
    """Folder or URL of the table (s3://, gs://, az://)."""
    version: int | None = Field(default=None, ge=0)
    """Version to read. null: the latest."""


class IcebergTable(Table):
    """An Apache Iceberg table of a catalog."""

    kind: Literal["iceberg"]
    table: str = Field(pattern=r"^[^.\s]+(\.[^.\s]+)+$")
    """Name of the table in the catalog, such as shop.events."""
    catalog: str = "default"
    """Name of the catalog, which is configured by environment variables such as PYICEBERG_CATALOG__NAME__URI, or by
    ~/.pyiceberg.yaml."""
    snapshot: int | None = None
    """Id of the snapshot to read. null: the latest."""


TABLES: dict[str, type[Table]] = {
    "postgresql": PostgreSQLTable,
    "adbc": ADBCTable,
    "duckdb": DuckDBTable,
    "delta": DeltaTable,
    "iceberg": IcebergTable,
}
"""Every kind of table by its name in a recipe."""

Part = Literal["train", "val", "test"]


def _form(value: object) -> str:
    """Which form of `Files` a value has, so that errors are reported for this form only.

    Forms in parentheses are not part of a message's path (`darec.common.recipes`).
    """
    if isinstance(value, Table):
        return str(getattr(value, "kind"))  # noqa: B009 - each kind declares it
    if isinstance(value, dict):
        kind = value.get("kind")
        return "(parts)" if kind is None else str(kind)
    return "(list)" if isinstance(value, list | tuple) else "(place)"


Files: TypeAlias = Annotated[
    Annotated[Place, Tag("(place)")]
    | Annotated[tuple[Place, ...], Tag("(list)")]
    | Annotated[dict[Part, Place | tuple[Place, ...]], Tag("(parts)")]
    | Annotated[PostgreSQLTable, Tag("postgresql")]
    | Annotated[ADBCTable, Tag("adbc")]
    | Annotated[DuckDBTable, Tag("duckdb")]
    | Annotated[DeltaTable, Tag("delta")]
    | Annotated[IcebergTable, Tag("iceberg")],
    Discriminator(
        _form,
        custom_error_type="unknown_kind",
        custom_error_message=f"unknown kind of table; known: {', '.join(TABLES)}",
    ),
]
"""A file, a folder, a glob or a URL; a list of them; one of these for each of train, val and test; or a table."""
