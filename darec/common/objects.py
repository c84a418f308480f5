"""Object stores such as S3: opening by URL, conditional writes, and errors that say how to fix them.

Credentials, region and endpoint come from the environment only: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
and AWS_ENDPOINT_URL for a server other than Amazon's; GOOGLE_SERVICE_ACCOUNT for gs://; AZURE_STORAGE_ACCOUNT_NAME and
AZURE_STORAGE_ACCOUNT_KEY for az://. The client is obstore, from the extra `cloud`.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from darec.common.errors import DarecError, TransientError, UserError
from darec.common.extras import extra

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_RETRY = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=10), "base": 2},
}
_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "AZURE_STORAGE_ENDPOINT",
    "GOOGLE_SERVICE_ACCOUNT_KEY",  # its field gcs_base_url sets another server
)
_RIGHTS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of a user who may list, read, write and delete objects",
    "gs": "set GOOGLE_SERVICE_ACCOUNT to the key file of an account that may list and read objects",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_SAS_TOKEN",
}
_METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "/metadata/identity")
"""The metadata services that clients ask for credentials if the environment has none."""
_REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403 Forbidden", "401 Unauthorized")
_CHUNK = 32 * 2**20  # bytes of a file that are in memory at once
_BLOCK = 8 * 2**20  # the same, of a download


def is_url(location: str | Path) -> bool:
    """Whether a location is a URL of an object store."""
    return isinstance(location, str) and "://" in location


def is_unencrypted() -> bool:
    """Whether the environment explicitly names a server without encryption."""
    return any("http://" in os.environ.get(name, "") for name in _ENDPOINTS)


def _opened(url: str) -> "ObjectStore":
    """The obstore client of `url`, such as s3://bucket/prefix; names of objects are relative to it.

    Raises:
        UserError: the extra `cloud` is not installed, or obstore does not support the address.
    """
    stores, errors = extra("obstore.store", "cloud"), extra("obstore.exceptions", "cloud")
    options = {"connect_timeout": "5s", "timeout": "120s", **({"allow_http": True} if is_unencrypted() else {})}
    try:
        return stores.from_url(url, retry_config=_RETRY, client_options=options)
    except (errors.BaseError, ValueError) as error:
        hint = "use an address such as s3://bucket/folder"
        raise UserError(f"the object store cannot be used ({_brief(str(error))})", where=url, hint=hint) from error


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Converts errors of an object store into errors with hints.

    Errors about missing objects and failed conditions are passed on unchanged.

    Raises:
        UserError: the bucket does not exist, or the credentials give no access to it.
        TransientError: the server cannot be reached, or failed.
    """
    errors = extra("obstore.exceptions", "cloud")
    try:
        yield
    except (DarecError, errors.AlreadyExistsError, errors.PreconditionError):
        raise
    except Exception as error:
        words = str(error)
        if "NoSuchBucket" in words:
            hint = "create the bucket, or use another one: darec does not create buckets"
            raise UserError("there is no such bucket", where=where, hint=hint) from error
        if isinstance(error, errors.BaseError) and any(word in words for word in _METADATA):
            what = "there are no credentials for the object store"
            raise UserError(what, where=where, hint=_rights(where)) from error
        if isinstance(error, errors.BaseError) and any(word in words for word in _REFUSED):
            raise UserError("the object store refuses these credentials", where=where, hint=_rights(where)) from error
        if isinstance(error, errors.GenericError | errors.JoinError):
            what, hint = "the object store does not answer", "check the network and AWS_ENDPOINT_URL, then run again"
            raise TransientError(f"{what} ({_brief(words)})", where=where, hint=hint) from error
        if isinstance(error, errors.BaseError | ValueError):
            raise UserError(f"the object store cannot do this ({_brief(words)})", where=where) from error
        raise


def _rights(where: str) -> str:
    return _RIGHTS.get(where.partition("://")[0], _RIGHTS["s3"])


def _brief(words: str) -> str:
    return " ".join(words.partition("Debug source")[0].split())[:200]


@dataclass(frozen=True)
class Listed:
    """An object in a listing."""

    name: str
    bytes: int
    version: str
    """The entity tag, which differs between contents; empty if the server gives none."""
    modified: datetime
    """According to the server's clock."""


class Objects:
    """The objects under one URL. The only place that calls obstore.

    Every method raises UserError for a missing bucket or missing rights, and TransientError if the server cannot be
    reached after several tries.
    """

    def __init__(self, url: str, shown_as: str = "") -> None:
        """Takes the URL, and the place that errors name instead of the URL and the object."""
        self.url, self._shown_as = url.rstrip("/"), shown_as
        self._store = _opened(self.url)
        self._obstore = extra("obstore", "cloud")
        self._errors = extra("obstore.exceptions", "cloud")

    def read(self, name: str) -> tuple[bytes, str] | None:
        """An object's content and version; None if there is none."""
        try:
            with _explained(self._address(name)):
                found = self._obstore.get(self._store, name)
                return bytes(found.bytes()), found.meta["e_tag"]
        except FileNotFoundError:
            return None

    def create(self, name: str, content: bytes) -> str | None:
        """Writes an object if it does not exist; returns its version, or None if it exists."""
        return self._write(name, content, "create")

    def swap(self, name: str, content: bytes, version: str) -> str | None:
        """Replaces an object if it still has `version`; returns the new version, or None if the version differs."""
        return self._write(name, content, {"e_tag": version})

    def _write(self, name: str, content: bytes, mode: object) -> str | None:
        try:
            with _explained(self._address(name)):
                return self._obstore.put(self._store, name, content, mode=mode, use_multipart=False)["e_tag"]
        except (self._errors.AlreadyExistsError, self._errors.PreconditionError):
            # If a response is lost, the client repeats a write that has already succeeded.
            found = self.read(name)
            return found[1] if found and found[0] == content else None

    def head(self, name: str) -> Listed:
        """An object without its content. Raises FileNotFoundError if there is no such object."""
        with _explained(self._address(name)):
            return _listed(self._obstore.head(self._store, name))

    def download(self, name: str, path: Path) -> Listed:
        """Writes an object's content to `path` and returns which version that is.

        Raises:
            FileNotFoundError: there is no such object.
        """
        with _explained(self._address(name)), path.open("wb") as stream:
            found = self._obstore.get(self._store, name)
            for block in found.stream(min_chunk_size=_BLOCK):
                stream.write(block)
            return _listed(found.meta)

    def put(self, name: str, content: bytes | Path) -> None:
        """Writes or replaces an object. A file is read in parts; the object becomes visible when it is complete."""
        with _explained(self._address(name)):
            self._obstore.put(self._store, name, content)

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content in parts. Raises FileNotFoundError if there is no such object."""
        with _explained(self._address(name)):
            found = self._obstore.get(self._store, name)
            size = found.meta["size"]
            if size <= _CHUNK:
                yield bytes(found.bytes())
                return
            # One request per part: the timeout applies to a request, and a large file may take longer.
            for start in range(0, size, _CHUNK):
                part = self._obstore.get_range(self._store, name, start=start, length=min(_CHUNK, size - start))
                yield bytes(part)

    def list(self, prefix: str) -> Iterator[Listed]:
        """The objects in the folder `prefix` and its subfolders, by name."""
        with _explained(self._address(prefix)):
            for page in self._obstore.list(self._store, prefix.rstrip("/")):
                yield from map(_listed, page)

    def delete(self, names: Iterable[str]) -> None:
        """Deletes objects; missing objects are ignored."""
        names = list(names)
        with _explained(self._shown_as or self.url):
            for start in range(0, len(names), 1000):
                self._obstore.delete(self._store, names[start : start + 1000])

    def move(self, name: str, target: str) -> None:
        """Renames an object."""
        with _explained(self._address(name)):
            self._obstore.copy(self._store, name, target)
            self._obstore.delete(self._store, name)

    def _address(self, name: str) -> str:
        return self._shown_as or f"{self.url}/{name}"


def _listed(meta: Any) -> Listed:
    return Listed(meta["path"], meta["size"], meta["e_tag"] or "", meta["last_modified"])
