"""Files in object stores: Amazon S3 and compatible servers, Google Cloud Storage, Azure Blob Storage."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from glob import has_magic
from pathlib import Path

from darec.common.errors import TransientError, UserError
from darec.common.objects import Listed, Objects
from darec.dataset.connections import CONNECTIONS, FileConnection, RemoteFile, expanded
from darec.dataset.files import fixed_parts, is_hidden


@CONNECTIONS.register("s3")
@CONNECTIONS.register("gs")
@CONNECTIONS.register("az")
class ObjectStore(FileConnection):
    """One object, all objects with a prefix, or those that match a glob."""

    def __init__(self, place: str, role: str) -> None:
        self._place, self._role = place, role
        kind, _, path = expanded(place, role).partition("://")
        bucket, _, self._path = path.partition("/")
        self._path = self._path.strip("/")
        self._objects = Objects(f"{kind}://{bucket}", shown_as=place)

    @property
    def inner(self) -> str:
        """The path in the bucket."""
        return self._path

    def files(self) -> Sequence[RemoteFile]:
        """The objects of the place. Names that begin with `.` or `_` are ignored, as in folders."""
        return self._files

    @cached_property
    def _files(self) -> list[RemoteFile]:
        # Only what is below the part of the path without a glob is listed.
        fixed = "/".join(fixed_parts(self._path.split("/")))
        with self._reading():
            found = list(self._objects.list(fixed))
            if not found and fixed == self._path:  # a listing of a prefix does not include the object of this name
                found = [self._objects.head(fixed)]

        wanted = [each for each in sorted(found, key=lambda each: each.name) if self._means(each.name)]
        if not wanted:
            hint = f"correct data.{self._role}"
            raise UserError(f"there are no {self._role} files", where=self._place, hint=hint)

        return [_described(each) for each in wanted]

    def download(self, file: RemoteFile, path: Path) -> RemoteFile:
        """Writes the object's content to `path`."""
        with self._reading():
            got = _described(self._objects.download(file.name, path))
        if got.bytes != path.stat().st_size:
            raise TransientError(f"the download of {file.name} ended early", where=self._place)
        return got

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            hint = f"correct data.{self._role}"
            raise UserError("there is no such file or bucket", where=self._place, hint=hint) from None

    def _means(self, name: str) -> bool:
        if name == self._path:
            return True
        if has_magic(self._path):
            return _pattern(self._path).fullmatch(name) is not None and not is_hidden(name.rpartition("/")[2])
        below = name.removeprefix(self._path).strip("/")
        return not any(is_hidden(part) for part in below.split("/"))


def _described(found: Listed) -> RemoteFile:
    tag = found.version.strip('"')  # Azure's listings omit the quotes
    return RemoteFile(found.name, tag or f"{found.modified} {found.bytes}", found.bytes)


def _pattern(pattern: str) -> re.Pattern[str]:
    """Converts a glob to a regular expression: `**` matches any number of folders, `*` and `?`
    match within one name.
    """
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    made = (part.replace("[!", "[^") if part.startswith("[") else known.get(part, re.escape(part)) for part in parts)
    return re.compile("".join(made))
