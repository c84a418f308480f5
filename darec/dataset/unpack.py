"""Converts source files to plain UTF-8 text: unpacks archives within a limit, and decodes encodings."""

import bz2
import codecs
import gzip
import itertools
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from darec.common.errors import UserError
from darec.dataset.files import is_hidden

HEAD_BYTES = 2**18
_BLOCK = 2**20
ABOUT = re.compile(r"(readme|licen[cs]e|changes|citation)\b.*|.*\.(md|pdf|html?)", re.IGNORECASE)
"""Names of files that accompany data."""
# A larger file with a higher ratio is refused: text shrinks to about a tenth, a decompression bomb to a thousandth.
_BOMB_BYTES, _BOMB_RATIO = 2**30, 200

_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
_BINARY = {  # magic bytes of files that are not text: the kind of file, and how to read it
    b"PAR1": ("a Parquet file", "set data.source: parquet, or format: parquet for this file"),
    b"PK\x03\x04": ("an Excel workbook", "save the sheet as CSV, and read that"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "save the sheet as CSV, and read that"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV or Parquet"),
    b"ARROW1": ("an Arrow file", "write it as Parquet"),
    b"Obj\x01": ("an Avro file", "write it as Parquet"),
    b"ORC": ("an ORC file", "write it as Parquet"),
    b"\x89HDF": ("an HDF5 file", "write its table as Parquet"),
    b"\x93NUMPY": ("a NumPy array", "write it as CSV or Parquet with the columns named"),
    b"\x80\x04\x95": ("a pickle", "write it as CSV or Parquet"),
    b"\x80\x03": ("a pickle", "write it as CSV or Parquet"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it, and name the file inside"),
    b"Rar!": ("a RAR archive", "unpack it, and name the file inside"),
    b"MATLAB": ("a MATLAB file", "write its table as CSV or Parquet with the columns named"),
    b"RDX": ("an R workspace", "write its table as CSV or Parquet"),
    b"RDA": ("an R workspace", "write its table as CSV or Parquet"),
    b"%PDF": ("a PDF document", "give the data itself"),
}
_MARKUP = {  # beginnings of text that holds no table, in lower case
    b"<!doctype html": ("an HTML page", "fetch the data itself, or save its table as CSV"),
    b"<html": ("an HTML page", "fetch the data itself, or save its table as CSV"),
    b"<table": ("an HTML page", "save its table as CSV"),
    b"<?xml": ("XML", "write its rows as CSV or as JSON lines"),
    b"insert into": ("an SQL dump", "load it into a database, and read the table or export it as CSV"),
    b"create table": ("an SQL dump", "load it into a database, and read the table or export it as CSV"),
}
_MARKS = {  # byte order marks, longest first
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zipfile.BadZipFile)


@dataclass
class Scratch:
    """A folder for unpacked and decoded copies, with a size limit."""

    folder: Path
    limit: int = 10**11
    """Maximum size of an unpacked file, in bytes."""
    _numbers: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def new(self, suffix: str) -> Path:
        """A new path in the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{next(self._numbers)}{suffix}"


@dataclass(frozen=True)
class Head:
    """The first bytes of a file, unpacked."""

    data: bytes
    compression: str
    """none, or the kind of archive."""
    encoding: str | None
    """The encoding that a byte order mark gives, or None."""
    whole: bool
    """Whether `data` is the complete file."""

    def text(self, encoding: str) -> str:
        """The complete lines of the head, decoded; undecodable bytes are replaced."""
        text = self.data.decode(self.encoding or encoding, errors="replace").removeprefix("\ufeff")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        return text if self.whole or "\n" not in text else text[: text.rindex("\n") + 1]


def head_of(path: Path, compression: str = "auto", size: int = HEAD_BYTES) -> Head:
    """Reads the beginning of a file.

    Raises:
        UserError: the archive is damaged, or does not contain exactly one file.
    """
    kind = _compression(path, compression)
    with _opened(path, kind) as stream:
        data = _read(stream, size)
    mark = next((encoding for mark, encoding in _MARKS.items() if data.startswith(mark)), None)
    return Head(data, kind, mark, whole=len(data) < size)


def plain_text(
    path: Path, encoding: str, scratch: Scratch, compression: str = "auto", escape: str | None = None
) -> Path:
    """A plain UTF-8 file with the lines of `path`: the file itself if it is one, else a copy in `scratch`.

    Raises:
        UserError: the archive is damaged or too large when unpacked, or the file is not text in that encoding.
    """
    head = head_of(path, compression)
    encoding = codecs.lookup(head.encoding or encoding).name
    refuse_binary(path, head, encoding)
    if head.compression == "none" and encoding in ("utf-8", "ascii") and not _has_odd_lines(head.data) and not escape:
        return path
    copy = scratch.new(".txt")
    with _opened(path, head.compression) as stream, copy.open("wb") as out:
        try:
            for block in _recoded(_limited(stream, path, scratch.limit), encoding, path, escape):
                out.write(block)
        except OSError as error:
            raise UserError(f"the file cannot be unpacked ({error})", where=str(path), hint="see the reason") from error
    return copy


def refuse_binary(path: Path, head: Head, encoding: str) -> None:
    """Raises UserError with a hint if the head is not that of a text file."""
    if head.compression == "none" or not head.data.startswith(b"PK\x03\x04"):
        for magic, (what, hint) in _BINARY.items():
            if head.data.startswith(magic):
                raise UserError(f"this is {what}, not text", where=str(path), hint=hint)
    for beginning, (what, hint) in _MARKUP.items():
        if head.data[:100].lstrip(b"\xef\xbb\xbf \r\n\t").lower().startswith(beginning):
            raise UserError(f"this is {what}, not a table", where=str(path), hint=hint)
    if head.data[257:262] == b"ustar":
        raise UserError("this is a tar archive", where=str(path), hint="unpack it, and name the file inside")
    if b"\0" in head.data[:4096] and not encoding.startswith(("utf-16", "utf-32")):
        even, odd = head.data[:4096:2].count(0), head.data[1:4096:2].count(0)
        if max(even, odd) > 0.3 * len(head.data[:4096]) / 2 > 0 and min(even, odd) == 0:
            name = "utf-16-le" if odd > even else "utf-16-be"
            raise UserError("this text is UTF-16", where=str(path), hint=f"set encoding: {name} for this file")
        raise UserError("this is not a text file: it contains zero bytes", where=str(path), hint="give the data itself")


def _compression(path: Path, compression: str) -> str:
    if compression != "auto":
        return compression
    with path.open("rb") as stream:
        first = stream.read(8)
    return next((kind for magic, kind in _ARCHIVES.items() if first.startswith(magic)), "none")


@contextmanager
def _opened(path: Path, compression: str) -> Iterator[BinaryIO]:
    """The unpacked bytes of a file. Raises UserError if the archive turns out to be damaged while reading."""
    try:
        if compression == "zip":
            with zipfile.ZipFile(path) as archive, archive.open(_only_member(archive, path)) as stream:
                yield cast(BinaryIO, stream)
        else:
            with _OPENERS[compression](path) as stream:
                yield stream
    except _DAMAGE as error:
        raise _damaged(path, compression, error) from error
    except OSError as error:
        if compression == "none" or error.errno is not None:
            raise
        raise _damaged(path, compression, error) from error
    except RuntimeError as error:  # an encrypted zip archive
        raise UserError(f"the archive cannot be read ({error})", where=str(path), hint="unpack it yourself") from error


def _zstd_or_lz4(kind: str) -> Callable[[Path], BinaryIO]:
    def opened(path: Path) -> BinaryIO:
        import pyarrow

        return cast(BinaryIO, pyarrow.input_stream(str(path), compression=kind))

    return opened


_OPENERS: dict[str, Callable[[Path], BinaryIO]] = {
    "none": lambda path: path.open("rb"),
    "gzip": lambda path: cast(BinaryIO, gzip.GzipFile(path)),
    "bz2": lambda path: cast(BinaryIO, bz2.BZ2File(path)),
    "xz": lambda path: cast(BinaryIO, lzma.LZMAFile(path)),  # noqa: SIM115 (`_opened` closes it)
    "zstd": _zstd_or_lz4("zstd"),
    "lz4": _zstd_or_lz4("lz4"),
}


def _only_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    names = {member.filename for member in archive.infolist()}
    if "[Content_Types].xml" in names:
        what, hint = _BINARY[b"PK\x03\x04"]
        raise UserError(f"this is {what}, not text", where=str(path), hint=hint)
    members = [
        member
        for member in archive.infolist()
        if not member.is_dir()
        and not is_hidden(Path(member.filename).name)
        and "__MACOSX" not in member.filename
        and not ABOUT.fullmatch(Path(member.filename).name)
    ]
    if len(members) != 1:
        listed = ", ".join(member.filename for member in members[:5]) or "none"
        what = f"this ZIP archive holds {len(members)} files ({listed}), not one"
        raise UserError(what, where=str(path), hint="unpack it, and name the file inside")
    return members[0]


def _damaged(path: Path, compression: str, error: BaseException) -> UserError:
    what = f"the {compression} archive is cut short or damaged ({error})"
    return UserError(what, where=str(path), hint="fetch or write the file again")


def _read(stream: BinaryIO, size: int) -> bytes:
    blocks = []
    while size > 0 and (block := stream.read(size)):
        blocks.append(block)
        size -= len(block)
    return b"".join(blocks)


def _limited(stream: BinaryIO, path: Path, limit: int) -> Iterator[bytes]:
    packed, total = path.stat().st_size, 0
    while block := stream.read(_BLOCK):
        total += len(block)
        if total > limit or (total > _BOMB_BYTES and total > _BOMB_RATIO * packed):
            what = f"the file unpacks to more than {total / 2**30:,.1f} GiB from {packed / 2**20:,.1f} MiB"
            hint = "raise data.max_unpacked_gb if this is expected" if total > limit else "unpack it yourself"
            raise UserError(what, where=str(path), hint=hint)
        yield block


def _recoded(blocks: Iterator[bytes], encoding: str, path: Path, escape: str | None) -> Iterator[bytes]:
    """The blocks as UTF-8 with line feeds as line ends and with escaped quotes doubled."""
    decoder = codecs.getincrementaldecoder(encoding)()
    lines, rest = 1, ""
    for block in itertools.chain(blocks, [b""]):
        try:
            text = rest + decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            lines += error.object[: error.start].count(b"\n")
            raise wrong_encoding(path, lines) from error
        lines += block.count(b"\n")
        rest = text[-1:] if block and text.endswith(("\r", "\\")) else ""
        text = text[: len(text) - len(rest)].replace("\r\n", "\n").replace("\r", "\n")
        if escape:
            text = re.sub(r'\\(["\\])', lambda match: '""' if match[1] == '"' else match[1], text)
        yield text.removeprefix("\ufeff").encode()


def wrong_encoding(path: Path, line: int) -> UserError:
    """The error that a line is not in the encoding of the recipe."""
    what = f"line {line} is not in the expected encoding"
    return UserError(
        what, where=str(path), hint="set data.encoding, or encoding for this file, such as latin-1 or cp1252"
    )


def _has_odd_lines(data: bytes) -> bool:
    """Whether lines end with a carriage return alone, as on old Macs."""
    return b"\r" in data and b"\n" not in data
