"""Files at https addresses."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from darec.common.errors import DarecError, TransientError, UserError
from darec.dataset.connections import CONNECTIONS, FileConnection, RemoteFile, expanded, without_values

if TYPE_CHECKING:
    import httpx

_CONNECT_SECONDS, _READ_SECONDS = 5, 60
_TRIES = 4  # attempts per download; each continues where the previous one ended, if the server supports that
_WITHOUT_HEAD = (403, 405, 501)  # some servers sign or allow only GET
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@CONNECTIONS.register("https")
@CONNECTIONS.register("http")
class WebFile(FileConnection):
    """One file. Its version is the server's ETag or modification time."""

    def __init__(self, place: str, role: str) -> None:
        self._place, self._role = place, role
        self._url = expanded(place, role)

    @property
    def inner(self) -> str:
        """The last segment of the address's path."""
        name = unquote(urlsplit(self._url).path.rstrip("/").rpartition("/")[2]).replace("/", "_")
        return name.lstrip("._") or "file"

    def files(self) -> Sequence[RemoteFile]:
        """The file."""
        with self._asked("HEAD") as response:
            if response.status_code not in _WITHOUT_HEAD:
                self._check(response)
                return [self._described(response)]
        with self._asked("GET") as response:
            self._check(response)
            return [self._described(response)]

    def download(self, file: RemoteFile, path: Path) -> RemoteFile:
        """Writes the file's content to `path`. An interrupted transfer is continued, or restarted if the file has
        changed.
        """
        path.unlink(missing_ok=True)
        for attempt in range(1, _TRIES + 1):
            try:
                return self._transfer(path, file)
            except TransientError:
                if attempt == _TRIES:
                    raise
        raise AssertionError

    def _transfer(self, path: Path, file: RemoteFile) -> RemoteFile:
        done = path.stat().st_size if path.exists() else 0
        headers: dict[str, str] = {}
        if done and file.version:
            headers = {"Range": f"bytes={done}-", "If-Range": file.version}

        with self._asked("GET", headers) as response:
            continues = response.headers.get("content-range", "").startswith(f"bytes {done}-")
            if response.status_code in (206, 416) and not continues:  # the next attempt starts from the beginning
                path.unlink(missing_ok=True)
                raise self._error(TransientError, "the interrupted transfer cannot be continued", "check the server")
            self._check(response)
            with path.open("ab" if continues else "wb") as stream:
                for block in response.iter_raw():
                    stream.write(block)
            size = path.stat().st_size
            got = RemoteFile(file.name, file.version, size) if continues else self._described(response)

        # A response without its length may end early without an error.
        same = file.version is not None and got.version == file.version
        if same and size < (file.bytes or 0):
            what = f"the transfer ended after {size:,} of {file.bytes:,} bytes"
            raise self._error(TransientError, what, "check the server")
        return got

    @contextmanager
    def _asked(self, method: str, headers: dict[str, str] | None = None) -> "Iterator[httpx.Response]":
        import httpx  # takes a tenth of a second to import, which `darec status` of local files does not need

        def only_encrypted(request: httpx.Request) -> None:
            if request.url.scheme != "https" and request.url.host not in _LOOPBACK:
                raise self._error(
                    UserError, f"it redirects to {request.url.host} without encryption", "use another address"
                )

        timeout = httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
        hooks: dict[str, Any] = {"request": [only_encrypted]}
        plain = {"Accept-Encoding": "identity"}  # a compressed transfer has another size and ETag
        try:
            with (
                httpx.Client(timeout=timeout, follow_redirects=True, event_hooks=hooks, headers=plain) as client,
                client.stream(method, self._url, headers=headers) as response,
            ):
                yield response
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise self._error(
                UserError, f"the address cannot be used ({error})", f"correct data.{self._role}"
            ) from None
        except httpx.HTTPError as error:
            what = f"the server cannot be read ({str(error) or type(error).__name__})"
            raise self._error(TransientError, what, "check the network and the server") from None

    def _check(self, response: "httpx.Response") -> None:
        """Raises an error for a response without the file."""
        code = response.status_code
        if response.is_success:
            return

        what = f"the server answers {code} {response.reason_phrase}"
        if code in (401, 403):
            hint = "put the credentials into the address as ${NAME}: https://${USER}:${PASSWORD}@host/file"
            raise self._error(UserError, what, hint)

        if code in (408, 425, 429) or code >= 500:
            raise self._error(TransientError, what, "check the server")
        raise self._error(UserError, what, f"correct data.{self._role}")

    def _error(self, kind: type[DarecError], what: str, hint: str) -> DarecError:
        return kind(without_values(what, self._place), where=self._place, hint=hint)

    def _described(self, response: "httpx.Response") -> RemoteFile:
        headers = response.headers
        length = int(headers["content-length"]) if headers.get("content-length", "").isdecimal() else None
        etag = headers.get("etag", "")
        version = etag if etag and not etag.startswith("W/") else headers.get("last-modified")
        return RemoteFile(self.inner, version or etag or None, length)
