"""Remote sources of a recipe, which are read into local copies before a run and checked for changes by plans.

Ingest uses only the copies: their files are hashed into its key. An unchanged source is therefore a hit, and a changed
one makes ingest and the stages after it stale.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from darec.common.errors import DarecError, TransientError, UserError
from darec.common.files import flush
from darec.common.hashing import digest
from darec.common.warnings import warn_once
from darec.dataset.connections import FileConnection, RemoteFile, Since, TableConnection, connect, state_of
from darec.dataset.copies import Copy, copy_of, described, link, parts_in
from schemas.copies import CopyRecord
from schemas.data import Column, DataConfig
from schemas.places import Table, scheme

if TYPE_CHECKING:
    from darec.dataset.incremental import Read

_ROLES: dict[str, Literal["interaction", "item", "user"]] = {
    "interactions": "interaction",
    "items": "item",
    "users": "user",
}
_AT_ONCE = 8  # concurrent downloads from an object store
_SPARE = 2**28  # bytes that a download leaves free on the disk


@dataclass(frozen=True)
class Source:
    """A remote place of the recipe."""

    role: str
    place: str | Table
    copy: Copy

    @property
    def name(self) -> str:
        """The place for messages, without its settings."""
        if isinstance(self.place, str):
            return self.place
        named = [getattr(self.place, name, None) for name in ("url", "file", "table", "driver")]
        return next((str(name) for name in named if name), described(self.place))


def sources_in(config: DataConfig, folder: Path) -> Iterator[Source]:
    """The remote places of a section `data`, with their copies in `folder`."""
    for role in _ROLES:
        for place in _places(getattr(config, role)):
            if isinstance(place, Table) or scheme(place) is not None:
                yield Source(role, place, copy_of(folder, place))


def has_remote(config: DataConfig) -> bool:
    """Whether a section `data` has remote places."""
    return any(True for _ in sources_in(config, Path()))


def local(config: DataConfig, folder: Path) -> DataConfig:
    """The configuration with remote places replaced by their copies.

    Raises:
        UserError: a source has not been read yet.
    """
    found = {described(source.place): source.copy for source in sources_in(config, folder)}
    if not found:
        return config

    def place_of(place: str | Table) -> str:
        copy = found.get(described(place))
        return copy.place if copy is not None else str(place)

    changes: dict[str, Any] = {}
    for role, kind in _ROLES.items():
        given = getattr(config, role)
        changes[role] = _mapped(given, place_of)
        if isinstance(given, Table):
            form = getattr(config, f"{kind}_format")
            changes[f"{kind}_format"] = form.model_copy(update={"format": "parquet"})

    return config.model_copy(update=changes)


@contextmanager
def named_by_source(config: DataConfig, folder: Path) -> Iterator[None]:
    """Replaces the path of a copy in errors by the source, which is more useful to users."""
    try:
        yield
    except DarecError as error:
        for source in sources_in(config, folder):
            if source.copy.record is not None and source.copy.place in error.where:
                error.where = re.sub(r"/part-\d+\.parquet", "", error.where.replace(source.copy.place, source.name))
        raise


def origins(config: DataConfig, folder: Path) -> list[str]:
    """Time and version of the copy of each remote source, for the report."""
    records = [(source, source.copy.record) for source in sources_in(config, folder)]
    return [
        f"{source.role} were read from {source.name} on {record.read_at:%Y-%m-%d %H:%M} UTC"
        + (f" (version {record.version[:40]})" if record.version else "")
        for source, record in records
        if record is not None
    ]


def fetch(config: DataConfig, folder: Path, *, full: bool = False, limit: int | None = None) -> list[str]:
    """Updates the copies of all remote sources. Returns a message for each.

    Args:
        config: the section `data` of a recipe.
        folder: where the copies are. The caller holds the lease on it.
        full: whether tables with a watermark are read again as a whole.
        limit: maximum number of rows per table; None means all.

    Raises:
        UserError: a source does not exist, access is denied, or it lacks a column.
        TransientError: a source cannot be reached, or the transfer was interrupted. The copies are unchanged.
    """
    return [f"{source.name}: {_fetch(config, source, full, limit)}" for source in sources_in(config, folder)]


def changed(config: DataConfig, folder: Path) -> tuple[str, ...]:
    """The remote sources that a run would read first. Their new data is not known before; nothing is downloaded.

    For a source that cannot be reached, a warning is logged and its copy is used.

    Raises:
        UserError: a source does not exist, or access is denied.
        TransientError: a source that was never read cannot be reached.
    """
    return tuple(news for source in sources_in(config, folder) if (news := _news(source)) is not None)


def _news(source: Source) -> str | None:
    record = source.copy.whole
    if record is None:
        connect(source.place, source.role).state()
        return f"{source.name} is read as a whole: there is no copy yet"

    since = f"the copy of {record.read_at:%Y-%m-%d %H:%M} UTC"
    try:
        version = _version(source)
    except TransientError as error:
        warn_once(f"{error.what} [{source.name}]: this is the plan for {since}")
        return None

    if version is None:
        warn_once(f"{source.name} does not say whether it has changed: this is the plan for {since}, a run reads it")
        return None

    return None if version == record.version else f"{source.name} has changed since {since}"


def _version(source: Source) -> str | None:
    """The current state of the source, in the form of the copy's record."""
    connection = connect(source.place, source.role)
    if (state := connection.state()) is not None or not isinstance(connection, TableConnection):
        return state

    assert isinstance(source.place, Table)
    if source.place.watermark is None:
        return None

    from darec.dataset.incremental import since_of, unread

    since = since_of(source.place, parts_in(source.copy.folder))
    return unread(connection, source.place, since) if since else None


def _fetch(config: DataConfig, source: Source, full: bool, limit: int | None) -> str:
    record = source.copy.whole
    version = _version(source) if record is not None and not full else None
    facts = _facts(config, source)
    if record is not None and version is not None and version == record.version:
        source.copy.update(record.model_copy(update={**facts, "read_at": datetime.now(UTC)}))
        return "unchanged"

    with source.copy.draft() as draft:
        connection = connect(source.place, source.role)
        if isinstance(connection, TableConnection):
            columns = _columns(config, source.role)
            return _fetch_table(connection, source, draft, record, facts, columns, full, limit)
        assert isinstance(connection, FileConnection)
        return _fetch_files(connection, source, draft, None if full else record, facts)


def _fetch_files(
    connection: FileConnection, source: Source, draft: Path, record: CopyRecord | None, facts: dict[str, Any]
) -> str:
    """Downloads the files whose version is new, and links the others."""
    files = connection.files()
    for file in files:
        _check_name(file.name, source)
    known, incoming = record.files if record is not None else {}, source.copy.incoming
    there = {file.name for file in files if file.version is not None and known.get(file.name) == file.version}
    _check_room(incoming, sum(file.bytes or 0 for file in files if file.name not in there), source)

    def fetched(file: RemoteFile) -> RemoteFile:
        if file.name not in there:
            return _fetch_file(connection, file, draft, incoming)
        _link_into(source.copy.folder / file.name, draft / file.name)
        return file

    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        got = list(pool.map(fetched, files))
    except OSError as error:
        hint = "free space on the disk of runtime.store"
        raise UserError(f"the copy cannot be written ({error})", where=str(incoming), hint=hint) from error
    finally:
        pool.shutdown(cancel_futures=True)

    versions = {file.name: file.version for file in got if file.version is not None}
    new = CopyRecord(
        place=described(source.place),
        generation="",
        inner=connection.inner,
        version=state_of(got),
        files=versions,
        **facts,
    )
    source.copy.commit(draft, new)
    size = sum((source.copy.folder / file.name).stat().st_size for file in got)
    return f"{len(got) - len(there):,} of {len(got):,} files read, {size / 1e6:,.1f} MB in all"


def _fetch_file(connection: FileConnection, file: RemoteFile, draft: Path, incoming: Path) -> RemoteFile:
    """Downloads a file next to the draft, so that the next attempt finds it if another file fails, and links it.

    The file is flushed before it is renamed: after a power failure, a finished name must not stand for missing data.
    """
    finished, unfinished = incoming / digest([file.name, file.version]), incoming / f"{digest(file.name)}.part"
    is_finished = file.version is not None and finished.exists() and file.bytes in (None, finished.stat().st_size)
    if not is_finished:
        file = replace(connection.download(file, unfinished), name=file.name)
        flush(unfinished)
        finished = unfinished.replace(incoming / digest([file.name, file.version]))
    _link_into(finished, draft / file.name)
    return file


def _link_into(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    link(file, target)


def _fetch_table(
    connection: TableConnection,
    source: Source,
    draft: Path,
    record: CopyRecord | None,
    facts: dict[str, Any],
    columns: list[Column],
    full: bool,
    limit: int | None,
) -> str:
    """Reads new rows, or all rows."""
    from darec.dataset.incremental import read_new, read_whole, since_of

    assert isinstance(source.place, Table)
    before, where = parts_in(source.copy.folder) if record else [], f"{source.name}, data.{source.role}"
    since = None if full else since_of(source.place, before)
    if since is None:
        done = read_whole(connection, source.place, draft, before, where, limit)
    else:
        done = read_new(connection, source.place, since, draft, before, where, columns)

    if done.changed or record is None:
        record = CopyRecord(place=described(source.place), generation="", version=done.version, is_table=True, **facts)
        source.copy.commit(draft, record)
    else:
        source.copy.update(record.model_copy(update={**facts, "version": done.version}))

    return _told(done, since)


def _told(done: "Read", since: Since | None) -> str:
    if since is None:
        return f"{done.rows:,} rows" + ("" if done.changed else ", the same as before")
    return f"{done.rows:,} new rows" if done.changed else "no new rows"


def _facts(config: DataConfig, source: Source) -> dict[str, Any]:
    """The fields of the record for the user column and the current time."""
    people = [role for role in ("interactions", "users") if source.place in _places(getattr(config, role))]
    column = getattr(config, f"{_ROLES[people[0]]}_columns").user if people else None
    return {
        "holds_people": bool(people),
        "user": column,
        "merge_ids": tuple(config.merge_ids or ()),
        "read_at": datetime.now(UTC),
    }


def _columns(config: DataConfig, role: str) -> list[Column]:
    """The columns that the recipe reads."""
    given = getattr(config, f"{_ROLES[role]}_columns")
    single = given.model_dump(exclude={"attributes", "move_articles"}).values()
    return [*(column for column in single if column is not None), *(getattr(given, "attributes", None) or ())]


def _check_name(name: str, source: Source) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        hint = "rename it, or name the other files by a glob"
        raise UserError(f"the name {name!r} cannot be a path on this machine", where=source.name, hint=hint)


def _check_room(folder: Path, wanted: int, source: Source) -> None:
    free = shutil.disk_usage(folder).free
    if wanted + _SPARE > free:
        what = f"{wanted / 1e9:.2f} GB are to be downloaded, and {free / 1e9:.2f} GB are free"
        raise UserError(what, where=source.name, hint="free space on the disk of runtime.store, or name fewer files")


def _places(given: Any) -> list[str | Table]:
    """All single places of a field."""
    if given is None:
        return []
    if isinstance(given, dict):
        return [place for each in given.values() for place in _places(each)]
    return list(given) if isinstance(given, tuple) else [given]


def _mapped(given: Any, to: Callable[[Any], str]) -> Any:
    if given is None:
        return None
    if isinstance(given, dict):
        return {part: _mapped(each, to) for part, each in given.items()}
    return tuple(map(to, given)) if isinstance(given, tuple) else to(given)
