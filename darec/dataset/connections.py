"""Connections to remote sources: their interface, and the choice of the connection for a place.

A new kind of source is one file: a subclass of `FileConnection` or `TableConnection`, registered for a scheme or for a
section of `schemas.places`, and named in `_MODULES`. Libraries are imported when a connection is opened.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darec.common.errors import UserError
from darec.common.hashing import digest
from darec.common.registry import Registry
from schemas.places import REFERENCE, Table, scheme

if TYPE_CHECKING:
    import pyarrow as pa

_MODULES = ("objects", "web", "databases", "duckdb_files", "delta", "iceberg")

CONNECTIONS: Registry["Connection"] = Registry("connection")
"""Connections by the scheme of a URL, or by the section of a table."""


class Connection(ABC):
    """A remote source."""

    @abstractmethod
    def state(self) -> str | None:
        """The source's version of its current content, found without reading it; None if it reports none.

        Raises:
            UserError: it does not exist, or access is denied.
            TransientError: it cannot be reached.
        """


@dataclass(frozen=True)
class RemoteFile:
    """A file of a remote source."""

    name: str
    """Its path within the source, with `/` between folders."""
    version: str | None
    """Changes whenever the content does; None if unknown."""
    bytes: int | None = None


def state_of(files: Sequence[RemoteFile]) -> str | None:
    """The state of a source that consists of files; None if one of them has no known version."""
    if any(file.version is None for file in files):
        return None
    return digest(sorted([file.name, file.version] for file in files))


class FileConnection(Connection):
    """Files, which are copied as they are."""

    def state(self) -> str | None:
        """The names and versions of all files."""
        return state_of(self.files())

    @property
    @abstractmethod
    def inner(self) -> str:
        """The file, folder or glob among `files` that the place denotes."""

    @abstractmethod
    def files(self) -> Sequence[RemoteFile]:
        """All files of the source, in a fixed order. Raises errors as `state` does."""

    @abstractmethod
    def download(self, file: RemoteFile, path: Path) -> RemoteFile:
        """Writes a file's content to `path`, and returns the file with its version. Raises errors as `state` does."""


@dataclass(frozen=True)
class Since:
    """A lower bound of the rows to read."""

    column: str
    value: Any
    """A number, a text, a date or a time."""

    @property
    def literal(self) -> str:
        """The value in SQL."""
        if isinstance(self.value, datetime):
            kind = "TIMESTAMP WITH TIME ZONE" if self.value.tzinfo else "TIMESTAMP"
            return f"{kind} '{self.value.isoformat(sep=' ')}'"
        if isinstance(self.value, date):
            return f"DATE '{self.value.isoformat()}'"
        if isinstance(self.value, str):
            return "'" + self.value.replace("'", "''") + "'"
        return str(self.value)


class TableConnection(Connection):
    """Rows, which are kept as Parquet."""

    @abstractmethod
    def rows(self, since: Since | None = None) -> "AbstractContextManager[pa.RecordBatchReader]":
        """The rows, or only those not below a bound. Raises errors as `state` does, and for a missing column."""

    def newest(self, since: Since) -> "AbstractContextManager[pa.RecordBatchReader] | None":
        """One row: the number of rows not below a bound, and the greatest value of its column.

        None if the source's `state` shows whether it has changed.
        """
        return None


def connect(place: str | Table, role: str) -> Connection:
    """The connection for a place of the recipe.

    Args:
        place: a URL or a table.
        role: interactions, items or users, for messages.

    Raises:
        UserError: a library or an environment variable is missing.
    """
    for name in _MODULES:
        import_module(f"darec.dataset.{name}")
    key = scheme(place) if isinstance(place, str) else type(place)
    assert key is not None
    return CONNECTIONS.make(key, place, role)


def expanded(address: str, role: str) -> str:
    """An address with its environment variables expanded. Raises UserError for a variable that is not set."""
    for name in REFERENCE.findall(address):
        if not os.environ.get(name):
            hint = f"set {name} in the environment of the run"
            raise UserError(f"the variable {name} is not set", where=f"data.{role}", hint=hint)
    return REFERENCE.sub(lambda match: os.environ[match[1]], address)


def without_values(text: str, address: str) -> str:
    """A library's message in which the values of the variables of `address` are replaced by their names."""
    values = {os.environ.get(name, ""): f"${{{name}}}" for name in REFERENCE.findall(address)}
    for value in sorted(filter(None, values), key=len, reverse=True):
        text = text.replace(value, values[value])
    return text
