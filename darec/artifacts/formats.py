"""Formats of artifact files: checked tables, vectors of users and items, JSON.

Large libraries are imported on use, so that declaring a file is cheap and plans are fast.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from darec.common.errors import DarecError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from schemas.tables import TableSchema

Content = TypeVar("Content")


class Vectors(NamedTuple):
    """One vector per user [users, width] and per item [items, width], float32; row = vocabulary number."""

    user: "NDArray[np.float32]"
    item: "NDArray[np.float32]"


class Format(Protocol[Content]):
    """Reads and writes one kind of file."""

    def read(self, path: Path) -> Content:
        """The file's content. Raises DarecError if it is missing, truncated or of another format."""
        ...

    def write(self, content: Content, path: Path) -> None:
        """Writes the file; equal contents give equal bytes."""
        ...


@dataclass(frozen=True)
class Table:
    """A Parquet table that is checked against a schema of `schemas.tables` when it is written and when it is read."""

    schema_name: str
    extras_name: str = ""
    """The schema of the optional columns of this table."""

    @property
    def schema(self) -> "TableSchema":
        """The schema itself."""
        import schemas.tables

        return getattr(schemas.tables, self.schema_name)

    @property
    def extras(self) -> "TableSchema":
        """The optional columns."""
        import schemas.tables

        return getattr(schemas.tables, self.extras_name) if self.extras_name else schemas.tables.TableSchema({})

    def read(self, path: Path) -> "pl.DataFrame":
        """The table."""
        from darec.artifacts.tables import read_table

        return read_table(path, self.schema, self.extras)

    def scan(self, path: Path) -> "pl.LazyFrame":
        """The table as a lazy query."""
        from darec.artifacts.tables import scan_table

        return scan_table(path, self.schema, self.extras)

    def sink(self, query: "pl.LazyFrame", path: Path) -> None:
        """Writes the result of a query while it is computed."""
        from darec.artifacts.tables import sink_table

        sink_table(query, path, self.schema, self.extras)

    def write(self, content: "pl.DataFrame", path: Path) -> None:
        """Writes the table as Parquet."""
        from darec.artifacts.tables import write_table

        write_table(content, path, self.schema, self.extras)


@dataclass(frozen=True)
class VectorFile:
    """A safetensors file with the tensors `user` and `item`."""

    def read(self, path: Path) -> Vectors:
        """Both sides as float32 arrays, which are mapped from the file: rows are read when they are used, and changes
        of the arrays do not reach the file.
        """
        from safetensors import safe_open

        try:
            with safe_open(path, "numpy") as file:  # checks the header and the size of the file
                if {file.get_slice(side).get_dtype() for side in Vectors._fields} != {"F32"}:
                    return Vectors(*(file.get_tensor(side).astype("float32") for side in Vectors._fields))
            return Vectors(*_mapped(path, *Vectors._fields))
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            hint = "delete the artifact's folder and run again: it will be rebuilt"
            raise DarecError(f"the vectors cannot be read ({reason})", where=str(path), hint=hint) from error

    def write(self, content: Vectors, path: Path) -> None:
        """Writes both sides."""
        import numpy as np
        from safetensors.numpy import save_file

        save_file({side: np.ascontiguousarray(rows) for side, rows in content._asdict().items()}, path)


def _mapped(path: Path, *names: str) -> "list[NDArray[np.float32]]":
    """Float32 tensors of an intact safetensors file, which holds the length of its header, the header and the values.
    The values are copied in memory where they are changed.
    """
    import numpy as np

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))

    found = list["NDArray[np.float32]"]()
    for name in names:
        shape, start = tuple(header[name]["shape"]), 8 + length + header[name]["data_offsets"][0]
        empty = 0 in shape  # nothing can be mapped
        found.append(np.empty(shape, "<f4") if empty else np.memmap(path, "<f4", "c", start, shape).view(np.ndarray))
    return found


@dataclass(frozen=True)
class Json:
    """A JSON file with sorted keys."""

    def read(self, path: Path) -> Any:
        """The parsed content."""
        return json.loads(path.read_text(encoding="utf-8"))

    def write(self, content: Any, path: Path) -> None:
        """Writes the content."""
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class OpaqueFile:
    """A file that is read and written by its path."""

    def read(self, path: Path) -> Path:
        """The path."""
        return path

    def write(self, content: Path, path: Path) -> None:
        """Moves a finished file to its final path."""
        content.rename(path)
