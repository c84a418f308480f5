"""The lists of all users: the top K items of every user of a release, in files for other services.

    OUT/part-00000.parquet ...    user_id, rank (from 1), item_id, score, source; users in the order of the release
    OUT/manifest.json             `schemas.lists.ListsManifest`, written last: a folder without it is incomplete

A folder is filled under a temporary name and renamed when it is complete, so that readers see the old lists or the new
ones. In an object store, files get unique names, and `manifest.json`, which lists them, is replaced when all are
written; the files of the old lists are deleted afterwards. Users are read, ranked and written in blocks: memory does
not grow with their number.
"""

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import numpy as np
import polars as pl
from pyarrow.parquet import ParquetWriter
from pydantic import ValidationError

from darec.artifacts.store import explained
from darec.common.errors import DarecError, UserError
from darec.common.files import check_writable, flush
from darec.common.objects import Objects
from darec.common.progress import Progress, Silent
from darec.common.warnings import warn_once
from darec.serving import index
from darec.serving.bundle import Bundle, vectors_of
from darec.serving.index import Bools, Floats, Ints, Seen
from darec.serving.ranker import Candidates, Ranker, by_index, by_popularity
from darec.serving.recommend import POPULARITY, sources
from darec.serving.rules import Rules
from schemas import columns as c
from schemas.lists import ListsConfig, ListsManifest
from schemas.rules import RulesConfig
from schemas.tables import LISTS

MANIFEST = "manifest.json"
_BLOCK = 4096  # number of users that are ranked at once
_READ = 2**23  # size of the users' vectors that are read at once: 32 MB
_ROWS = 2**19  # number of rows in a row group, or per write
_UPLOADED = re.compile(r"[0-9a-f]{12}/part-\d{5}\.\w+")  # names in an object store


def write_lists(
    bundle: Bundle,
    out: Path | str,
    config: ListsConfig,
    rules: RulesConfig | None = None,
    progress: Progress | None = None,
) -> ListsManifest:
    """Writes the lists of all users to the folder `out`, replacing existing lists.

    Args:
        bundle: the release.
        out: the folder, or its address in an object store. An existing folder is replaced only if it contains lists.
        config: length of a list, format, and number of files.
        rules: which items are allowed, and how lists are composed.
        progress: shows the number of users.

    Raises:
        UserError: the folder contains other files, or another process is writing these lists.
    """
    started = time.perf_counter()
    rules, progress = rules or RulesConfig(), progress or Silent()
    applied = Rules.of(rules, bundle)
    ranker, find = Ranker.of(bundle, applied), _Finder(bundle, applied.allowed)
    new = _Finder(bundle, applied.new) if applied.new is not None and applied.new.any() else None
    users, rows = bundle.report.users.rows, 0
    bounds = np.linspace(0, bundle.user_rows, config.partitions + 1).astype(int).tolist()

    progress.start("lists", users, "users")
    names = []
    with _uploaded(out) if isinstance(out, str) else _replaced(out) as (folder, finish):
        for number, (start, stop) in enumerate(pairwise(bounds)):
            path = folder / f"part-{number:05}.{config.format}"
            with path.open("wb") as file, _WRITERS[config.format](file) as write:
                for block in _blocks(bundle, start, stop):
                    table = _ranked(bundle, block, ranker, find, new, config.k)
                    write(table)
                    rows += table.height
                    progress.advance(block.height)
            names.append(finish(path))
        manifest = ListsManifest(
            release=bundle.folder.name,
            config=config,
            rules=rules,
            users=users,
            rows=rows,
            created=datetime.now(UTC),
            seconds=round(time.perf_counter() - started, 3),
            files=tuple(names),
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    return manifest


def written(out: Path | str) -> ListsManifest | None:
    """The manifest of the folder, if it contains complete lists and is readable."""
    try:
        if isinstance(out, Path):
            return ListsManifest.model_validate_json((out / MANIFEST).read_bytes())
        found = Objects(out).read(MANIFEST)
        return ListsManifest.model_validate_json(found[0]) if found else None
    except (OSError, ValidationError, DarecError):
        return None


def check_replaceable(out: Path) -> None:
    """Checks that lists can be written to the folder `out`, before the work whose result goes there.

    Raises:
        UserError: the folder contains other files, or the one around it cannot be written.
    """
    if out.exists() and written(out) is None and not (out.is_dir() and not any(out.iterdir())):
        hint = "name a folder that is new, empty, or contains lists"
        raise UserError("the folder contains other files than lists", where=str(out), hint=hint)
    check_writable(out.resolve(), "folder of the lists")


def follow_by_hand(
    bundle: Path, config: ListsConfig | None, rules: RulesConfig, progress: Progress | None = None
) -> ListsManifest | None:
    """Writes the lists of the release in production again after a rollback, a promotion or `darec forget`, if those in
    the folder are of another release. None if there is nothing to write.
    """
    there = written(config.out) if config else None
    if config is None or there is None or there.release == bundle.name:
        return None
    return write_lists(Bundle.open(bundle), config.out, config, rules, progress)


def _blocks(bundle: Bundle, start: int, stop: int) -> Iterator[pl.DataFrame]:
    """The users from `start` to `stop`, in blocks; `user_index` and the columns of `users.parquet`."""
    many = max(_BLOCK, _READ // bundle.report.width // _BLOCK * _BLOCK)
    for first in range(start, stop, many):
        yield from bundle.users_between(first, min(first + many, stop)).iter_slices(_BLOCK)


def _ranked(
    bundle: Bundle, users: pl.DataFrame, ranker: Ranker, find: "_Finder", new: "_Finder | None", k: int
) -> pl.DataFrame:
    vectors = vectors_of(users)
    source = sources(bundle, users[c.TRAIN_COUNT].to_numpy(), vectors)
    has_vector = source != POPULARITY
    seen = _left_out(bundle, users, ranker.rules)
    ids = np.full((users.height, min(k, ranker.n_items)), -1, np.int64)
    scores = np.full(ids.shape, -np.inf, np.float32)
    known = vectors[has_vector]
    for rows, candidates, new_ones in (
        (np.flatnonzero(has_vector), find.of(known), new.of(known) if new else None),
        (np.flatnonzero(~has_vector), find.popular, None),
    ):
        if len(rows):
            ids[rows], scores[rows] = ranker.top(candidates, len(rows), k, seen.of(rows), new_ones)

    ids[users[c.USER].is_null().to_numpy()] = -1  # a user who was forgotten
    row, place = np.nonzero(ids >= 0)
    return pl.DataFrame(
        {
            c.USER: users[c.USER].gather(row),
            c.RANK: (place + 1).astype(np.int32),
            c.ITEM: bundle.items[c.ITEM].gather(ids[row, place]),
            c.SCORE: scores[row, place],
            c.SOURCE: pl.Series(source).gather(row),
        }
    )


def _left_out(bundle: Bundle, users: pl.DataFrame, rules: Rules) -> Seen:
    """Seen items and dislikes, or only dislikes if the rules allow seen items."""
    first = int(users[c.USER_INDEX][0])
    pairs = bundle.seen_between(first, first + users.height, disliked=True if rules.seen else None)
    rows, items = (pairs[name].to_numpy().astype(np.int64) for name in (c.USER_INDEX, c.ITEM_INDEX))
    return Seen(rows - first, items)


class _Finder:
    """Candidates for blocks of users, equal to those of the index, or exact.

    If the index would compare a user with all allowed items, because it is flat or because of the rules, a matrix
    product with these items gives the same result several times as fast. An approximate index over all items is even
    faster, unless it searches many of its lists.
    """

    def __init__(self, bundle: Bundle, allowed: Bools | None) -> None:
        self._bundle, self._allowed = bundle, allowed
        self.popular = by_popularity(bundle, allowed)
        exact = index.is_exact(bundle.item_index, allowed) or index.product_is_faster(bundle.item_index)
        self._product = _Product(bundle, allowed) if exact else None

    def of(self, vectors: Floats) -> Candidates:
        """Candidates for the users of `vectors` [b, width]."""
        if self._product is None:
            return by_index(self._bundle, vectors, self._allowed)
        product = self._product
        return lambda queries, n, seen: product.top(vectors[queries], n, seen)


class _Product:
    """The product with the vectors of the allowed items."""

    def __init__(self, bundle: Bundle, allowed: Bools | None) -> None:
        import torch

        from darec.evaluation.top_items import TopItems

        vectors = bundle.all_item_vectors()
        everything = np.arange(len(vectors))
        self._items = everything if allowed is None else np.flatnonzero(allowed)
        self._place = np.full(len(vectors), -1)
        self._place[self._items] = np.arange(len(self._items))
        self._top = TopItems(torch.tensor(vectors[self._items]))

    def top(self, users: Floats, n: int, seen: Seen) -> tuple[Ints, Floats]:
        """The n best unseen items of each user, [b, n]."""
        import torch

        rows = np.argsort(seen.rows, kind="stable")
        rows = rows[self._place[seen.items[rows]] >= 0]
        without = torch.from_numpy(seen.rows[rows]), torch.from_numpy(self._place[seen.items[rows]])
        best, scores = (side.numpy() for side in self._top.top(torch.tensor(users), n, without))
        return np.where(best >= 0, self._items[best], -1), scores


# ---------------------------------------------------------------- files: tables are appended to one that is open

Write = Callable[[pl.DataFrame], object]


@contextmanager
def _parquet(file: IO[bytes]) -> Iterator[Write]:
    """Writes row groups of at least `_ROWS` rows, except for the last."""
    schema = _EMPTY.to_arrow().schema
    waiting: list[pl.DataFrame] = []
    with ParquetWriter(file, schema, compression="zstd") as writer:

        def write(table: pl.DataFrame, least: int = _ROWS) -> None:
            waiting.append(table)
            if sum(each.height for each in waiting) >= least:
                writer.write_table(pl.concat(waiting).to_arrow())
                waiting.clear()

        yield write
        write(_EMPTY, least=0)


@contextmanager
def _csv(file: IO[bytes]) -> Iterator[Write]:
    _EMPTY.write_csv(file)  # the header
    yield lambda table: table.write_csv(file, include_header=False)


@contextmanager
def _jsonl(file: IO[bytes]) -> Iterator[Write]:
    yield lambda table: table.write_ndjson(file)


_EMPTY = pl.DataFrame(schema=LISTS)
_WRITERS: dict[str, Callable[[IO[bytes]], AbstractContextManager[Write]]] = {
    "parquet": _parquet,
    "csv": _csv,
    "jsonl": _jsonl,
}


Finish = Callable[[Path], str]
"""Called with a complete file; returns its name for readers."""


@contextmanager
def _uploaded(out: str) -> Iterator[tuple[Path, Finish]]:
    """An empty local folder, whose files are uploaded one by one; the manifest is uploaded at the end of the block."""
    place, run = Objects(out), uuid.uuid4().hex[:12]
    there = {each.name for each in place.list("")}
    if there and MANIFEST not in there:
        hint = "name a folder that is new, empty, or contains lists"
        raise UserError("the folder contains other files than lists", where=out, hint=hint)

    def upload(path: Path) -> str:
        name = f"{run}/{path.name}"
        place.put(name, path)
        path.unlink()
        return name

    with TemporaryDirectory() as folder:
        yield Path(folder), upload
        place.put(MANIFEST, Path(folder) / MANIFEST)
    # Files of the old lists, and those that a killed process has left.
    place.delete(name for name in there if _UPLOADED.fullmatch(name))


@contextmanager
def _replaced(out: Path) -> Iterator[tuple[Path, Finish]]:
    """An empty folder that replaces `out` when the block ends without an error."""
    check_replaceable(out)
    out = out.resolve()  # a link stays, and the folder that it leads to is replaced
    draft = out.with_name(f".{out.name}.unfinished")
    with explained(out, "the folder of the lists", "lists.out or --out"):
        draft.mkdir(parents=True, exist_ok=True)
        with _locked(draft, out):
            _empty(draft)  # leftovers of a killed process
            yield draft, lambda path: path.name
            for path in (*draft.iterdir(), draft):
                flush(path)
            _swap(draft, out)


def _swap(draft: Path, out: Path) -> None:
    """Renames `draft` to `out`, and deletes the old lists: those there, and any that an earlier call left behind."""
    before = f".{out.name}.before"
    try:
        # A rename cannot replace a folder that is not empty: for a moment there is no folder.
        if out.exists():
            out.rename(out.with_name(f"{before}-{uuid.uuid4().hex[:8]}"))
        draft.rename(out)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        what = "the folder of the lists is a mount point, which cannot be replaced"
        raise UserError(what, where=str(out), hint="name a folder inside it") from error

    flush(out.parent)
    for old in [path for path in out.parent.iterdir() if path.name.startswith(before)]:
        shutil.rmtree(old, ignore_errors=True)
        if old.exists():  # not writable, or on a network file system and still read by somebody
            warn_once(f"old lists could not be deleted [{old}]")


@contextmanager
def _locked(draft: Path, out: Path) -> Iterator[None]:
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        what = "another process is writing these lists"
        raise UserError(what, where=str(out), hint="wait for it, or name another folder") from error
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
