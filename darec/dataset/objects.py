"""Files in object stores: Amazon S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.

Credentials and endpoints are taken from each store's usual variables by the library `obstore`.
"""

import os
import re
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from glob import has_magic
from pathlib import Path
from typing import Any

from darec.common.errors import DarecError, TransientError, UserError
from darec.common.extras import extra
from darec.dataset.connections import CONNECTIONS, FileConnection, RemoteFile, expanded

_STORES = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION",
    "gs": "GOOGLE_SERVICE_ACCOUNT, the path of a key file",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_PLAIN_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
_RETRIES = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}


@CONNECTIONS.register("s3")
@CONNECTIONS.register("gs")
@CONNECTIONS.register("az")
class ObjectStore(FileConnection):
    """An object, all objects below a name, or those that a glob matches."""

    def __init__(self, place: str, role: str) -> None:
        self._place, self._role = place, role
        self._scheme, _, path = expanded(place, role).partition("://")
        bucket, _, self._path = path.partition("/")
        self._path = self._path.strip("/")
        self._obstore = extra("obstore", "cloud")
        self._errors = extra("obstore.exceptions", "cloud")
        try:
            make = getattr(extra("obstore.store", "cloud"), _STORES[self._scheme])
            self._store = make(bucket, client_options=_client(self._scheme), retry_config=_RETRIES)
        except (self._errors.BaseError, ValueError) as error:
            raise self._explained(error) from None

    @property
    def inner(self) -> str:
        """The path in the bucket."""
        return self._path

    def files(self) -> Sequence[RemoteFile]:
        """The objects that the place means. Those whose names begin with `.` or `_` are passed over, as in folders."""
        return self._files

    @cached_property
    def _files(self) -> list[RemoteFile]:
        fixed = self._path
        if has_magic(fixed):
            fixed = "/".join(_before_magic(fixed.split("/")))
        try:
            found = [meta for batch in self._obstore.list(self._store, fixed or None) for meta in batch]
            if not found and fixed:  # a listing below a name leaves the object of this name out
                found = [self._obstore.head(self._store, fixed)]
        except (self._errors.BaseError, FileNotFoundError, PermissionError) as error:
            raise self._explained(error) from None

        wanted = [meta for meta in sorted(found, key=lambda meta: meta["path"]) if self._means(meta["path"])]
        if not wanted:
            hint = f"correct data.{self._role}"
            raise UserError(f"there are no {self._role} files", where=self._place, hint=hint)
        return [_remote(meta) for meta in wanted]

    def download(self, file: RemoteFile, path: Path) -> RemoteFile:
        """Writes the object's content to `path`."""
        try:
            result = self._obstore.get(self._store, file.name)
            meta = _remote(result.meta)
            with path.open("wb") as stream:
                for block in result.stream(min_chunk_size=8 * 2**20):
                    stream.write(block)
        except (self._errors.BaseError, FileNotFoundError, PermissionError) as error:
            raise self._explained(error) from None
        if meta.bytes != path.stat().st_size:
            raise TransientError(f"the download of {file.name} ended early", where=self._place)
        return meta

    def _means(self, name: str) -> bool:
        if name == self._path:
            return True
        if has_magic(self._path):
            return _pattern(self._path).fullmatch(name) is not None and not _is_hidden(name.rpartition("/")[2])
        below = name.removeprefix(self._path).strip("/")
        return not any(_is_hidden(part) for part in below.split("/"))

    def _explained(self, error: BaseException) -> DarecError:
        text = " ".join(str(error).split()).partition(" Debug source:")[0]
        if isinstance(error, FileNotFoundError | self._errors.NotFoundError) or "404 Not Found" in text:
            return UserError("there is no such file or bucket", where=self._place, hint=f"correct data.{self._role}")
        text = text[:300]
        refused = (PermissionError, self._errors.PermissionDeniedError, self._errors.UnauthenticatedError)
        if isinstance(error, refused) or re.search(r"credential|metadata|403|401|AccessDenied|not specified", text):
            hint = f"set {_VARIABLES[self._scheme]} in the environment of the run"
            return UserError(f"the store gives no access ({text})", where=self._place, hint=hint)
        hint = "check the network and the store's endpoint"
        return TransientError(f"the store cannot be read ({text})", where=self._place, hint=hint)


def _client(kind: str) -> dict[str, Any]:
    """Options of the HTTP client: an endpoint that the environment gives as http:// is meant so."""
    plain = any(os.environ.get(name, "").startswith("http://") for name in _PLAIN_ENDPOINTS)
    emulated = kind == "gs" or os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() == "true"
    return {"timeout": timedelta(minutes=10), "connect_timeout": timedelta(seconds=5), "allow_http": plain or emulated}


def _remote(meta: Any) -> RemoteFile:
    version = meta["e_tag"] or f"{meta['last_modified']} {meta['size']}"
    return RemoteFile(meta["path"], version, meta["size"])


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _before_magic(parts: list[str]) -> list[str]:
    return parts[: next((number for number, part in enumerate(parts) if has_magic(part)), len(parts))]


def _pattern(pattern: str) -> re.Pattern[str]:
    """A glob of names as a regular expression: `**` is any number of folders, `*` and `?` stay within one name."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    made = (part.replace("[!", "[^") if part.startswith("[") else known.get(part, re.escape(part)) for part in parts)
    return re.compile("".join(made))
