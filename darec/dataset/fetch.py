"""Downloads public data sets that may not be redistributed."""

import contextlib
import hashlib
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from darec.common.errors import TransientError, UserError
from darec.common.files import flush
from darec.common.hashing import file_sha256
from darec.common.wheels import download_wheel
from darec.dataset.sources import movielens_files

GROUPLENS_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
GROUPLENS_MD5 = "0e33842e24a9c977be4e0107933c0723"  # as published by GroupLens
GROUPLENS_FILES = ("u.data", "u.item", "u.user")
WHEEL = "recbole==1.2.1"  # contains the atomic files of MovieLens-100K as an example
WHEEL_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
_CONNECT_SECONDS, _READ_SECONDS = 5, 30


class _UnavailableError(Exception):
    """One download location failed; the next is tried."""


def fetch(name: str, folder: Path) -> Path:
    """Downloads data set `name` to `folder` unless it exists. Returns `folder`.

    MovieLens-100K is downloaded from GroupLens or, if that cannot be reached, taken from a Python package. Checksums
    are verified before the files are moved to their final paths, the interactions last.

    Raises:
        UserError: the name is unknown, or the folder is not writable.
        TransientError: no download location works.
    """
    if name != "ml-100k":
        raise UserError(f"there is no data set {name!r} to fetch", where="darec data fetch", hint="known: ml-100k")

    with contextlib.suppress(UserError):
        movielens_files(folder)
        return folder

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
            _first_that_works(Path(scratch), folder)
    except OSError as error:
        raise UserError(
            f"the data cannot be stored ({error})", where=str(folder), hint="free or unlock the folder"
        ) from error

    return folder


def _first_that_works(scratch: Path, folder: Path) -> None:
    ways: dict[str, Callable[[Path], list[Path]]] = {GROUPLENS_URL: _from_grouplens, f"package {WHEEL}": _from_wheel}
    failures = []
    for source, way in ways.items():
        try:
            files = way(scratch)
        except _UnavailableError as error:
            failures.append(f"{source}: {error}")
            continue
        for file in reversed(files):
            flush(file)
            file.replace(folder / file.name)
        return

    files = ", ".join(GROUPLENS_FILES)
    hint = f"check the network, or put {files} of ml-100k.zip there yourself"
    raise TransientError(f"MovieLens-100K cannot be fetched ({'; '.join(failures)})", where=str(folder), hint=hint)


def _from_grouplens(scratch: Path) -> list[Path]:
    import httpx  # takes a tenth of a second to import, which `darec status` does not need

    archive = scratch / "ml-100k.zip"
    checksum = hashlib.md5(usedforsecurity=False)
    timeout = httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
    try:
        with httpx.stream("GET", GROUPLENS_URL, timeout=timeout) as response, archive.open("wb") as stream:
            response.raise_for_status()
            for block in response.iter_bytes():
                checksum.update(block)
                stream.write(block)
    except httpx.HTTPError as error:
        raise _UnavailableError(str(error) or type(error).__name__) from error

    if checksum.hexdigest() != GROUPLENS_MD5:
        raise _UnavailableError("the download is not the archive (wrong checksum)")
    return _extract(archive, "ml-100k/", list(GROUPLENS_FILES), scratch)


def _from_wheel(scratch: Path) -> list[Path]:
    try:
        wheel = download_wheel(WHEEL, scratch)
    except TransientError as error:
        raise _UnavailableError(error.what) from error

    files = _extract(wheel, "recbole/dataset_example/ml-100k/", list(WHEEL_SHA256), scratch)
    for file in files:
        if file_sha256(file) != WHEEL_SHA256[file.name]:
            raise _UnavailableError(f"{file.name} has a wrong checksum")

    return files


def _extract(archive: Path, prefix: str, names: list[str], folder: Path) -> list[Path]:
    """Writes the named members of a zip file to `folder`; paths inside the archive are not used."""
    try:
        with zipfile.ZipFile(archive) as members:
            for name in names:
                (folder / name).write_bytes(members.read(prefix + name))
    except (KeyError, zipfile.BadZipFile) as error:
        raise _UnavailableError(f"{archive.name} does not hold the data ({error})") from error
    return [folder / name for name in names]
