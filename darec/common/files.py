"""Safe reading of untrusted files, and atomic replacement of files."""

import os
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from darec.common.errors import UserError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def regular_file(path: Path, name: str, *, hint: str) -> os.stat_result:
    """The status of the regular file at `path`; symbolic links are followed.

    Reading a pipe or a device may block forever, so this is called before a file that a user names is opened.

    Args:
        path: the file.
        name: what it is, for the message: "the recipe", "the interactions file".
        hint: how to fix a path that is not a regular file.

    Raises:
        UserError: `path` does not exist, is not accessible, or is a folder, pipe, device or socket.
    """
    try:
        facts = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{name} does not exist", where=str(path), hint=hint) from error
    except (OSError, ValueError) as error:  # ValueError: the path holds a NUL
        raise UserError(f"{name} cannot be read ({error})", where=repr(str(path))[1:-1], hint=hint) from error

    if not stat.S_ISREG(facts.st_mode):
        kind = _KINDS.get(stat.S_IFMT(facts.st_mode), "no regular file")
        raise UserError(f"{name} is {kind}, not a file", where=str(path), hint=hint)

    return facts


def read_text(path: Path, name: str, *, hint: str, limit: int = 2**20) -> str:
    """The text of a UTF-8 file, without its byte order mark.

    Args:
        path: the file.
        name: what it is, for the message: "the recipe", "the prompt".
        hint: how to fix a path that is not such a file.
        limit: the largest size in bytes.

    Raises:
        UserError: it is not a regular file, is not readable, is larger than `limit`, or is not UTF-8.
    """
    regular_file(path, name, hint=hint)
    try:
        # Some files under /proc look regular but block on reading: O_NONBLOCK makes them fail instead.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            data = file.read(limit + 1) or b""
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error})", where=str(path), hint=hint) from error

    if len(data) > limit:
        raise UserError(f"{name} is larger than {limit // 1024:,} KiB", where=str(path), hint=hint)

    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "not UTF-8 text"
        message = f"{name} cannot be read: it is {kind} (byte {error.start:,} is 0x{data[error.start]:02x})"
        raise UserError(message, where=str(path), hint="save it as UTF-8") from error


@contextmanager
def replacing(path: Path, *, draft: Path | None = None, durable: bool = False) -> Iterator[Path]:
    """Yields the path of a draft, which replaces `path` in one rename when the block ends without an error.

    Readers see the old file or the new one, never an incomplete one.

    Args:
        path: the file or symbolic link to write or replace.
        draft: where to write, on the same file system; by default a hidden file beside `path`.
        durable: whether the new content must survive a power failure.
    """
    draft = draft or path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        yield draft
        if durable and not draft.is_symlink():
            flush(draft)
        draft.replace(path)
        if durable:
            flush(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Writes a text file atomically, and creates its folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def check_writable(path: Path, name: str = "file") -> None:
    """Checks that `path` can be written, before the work whose result goes there. Nothing is left behind.

    Args:
        path: of a file, or of a folder that is going to be made or replaced.
        name: of what is written there, in the message.

    Raises:
        UserError: the folder around it cannot be written or, if it does not exist, created.
    """
    folder = next(each for each in path.absolute().parents if os.path.lexists(each))
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        hint = "name a path in a folder that this user may write"
        raise UserError(f"the {name} cannot be written ({error.strerror})", where=str(path), hint=hint) from error


def flush(path: Path) -> None:
    """Flushes a file, or the renames in a folder, to disk, so that they survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class NotAFileError(OSError):
    """A folder, pipe, socket or device was found instead of a file."""


def read_bytes(path: Path) -> bytes:
    """The content of a regular file in a folder that may contain untrusted files.

    Raises:
        NotAFileError: it is not a regular file but, for example, a named pipe, which might block.
        OSError: it does not exist, or cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFileError(f"not a regular file: {path}")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read()
    finally:
        os.close(descriptor)
