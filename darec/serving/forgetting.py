"""Removes a person from all data in a store (`darec forget`).

Artifacts are caches: those that contain the person, and all that were made from them, are deleted, and the next run
rebuilds them from the raw data. Artifacts with items only are kept. The bundle of a release that is kept is replaced by
one without the person (`darec.serving.bundle.write_without`): the new bundle is complete before `current` and the
record of the release refer to it, so a process killed at any moment leaves the old or the new bundle in production.
The lists of all users in the recipe's folder are then written again. Rows of the person's texts and text vectors are
removed from the row ledgers by their content, because a ledger does not contain user ids. Files that name the person
are deleted last, so that a second call after a kill finds the person and completes the removal.

Unreadable files may contain the person and are also deleted, unless they are releases.
"""

import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Protocol

import polars as pl
from pydantic import ValidationError

from darec.artifacts import files
from darec.artifacts.keys import artifact_key, content_hash
from darec.artifacts.ledger import Ledger
from darec.artifacts.segments import ledgers
from darec.artifacts.shared import CACHE_FILES
from darec.artifacts.store import RECEIPTS, Artifact, Store, explained, file_records
from darec.common.errors import DarecError, TransientError, UserError
from darec.common.files import replacing
from darec.serving.bundle import write_without
from darec.serving.lists import follow_by_hand, written
from darec.serving.recommend import nearest
from darec.serving.records import CurrentLink, Records
from darec.serving.releases import LEASE, whoami
from darec.serving.retention import alone
from darec.serving.vectors import open_store
from schemas import columns as c
from schemas.copies import COPIES, COPY_FOLDERS
from schemas.lists import ListsConfig
from schemas.manifest import MANIFEST, InputRecord
from schemas.night import NIGHTS_FILE, Night
from schemas.receipt import Receipt
from schemas.release import Release
from schemas.rules import RulesConfig
from schemas.tables import PROFILE_ROWS, VECTOR_ROWS
from schemas.vectors import VectorsConfig

_OF_ITEMS = {
    (file.stage, file.name) for file in (files.ITEMS, files.ITEM_VOCABULARY, files.ITEM_PROFILES, files.ITEM_FALLBACKS)
}
"""Files that contain only items. Artifacts that are made from these files alone do not contain the person."""
_SCRATCH = {"work": "*/*", "damaged": "*"}
"""Checkpoints of runs, and artifacts that were set aside as damaged."""
_OURS = {
    "artifacts", "work", "ledger", "damaged", "replaced", "leases", "releases", "current", "tmp", "reports", "prompts",
    "metrics", RECEIPTS, COPIES, NIGHTS_FILE, *CACHE_FILES,
}  # fmt: skip
_REMOVED = "(removed with a person who was forgotten)"
_LEARNED = "what the model of a release has learnt from the person: the next training starts without it"
_ELSEWHERE = (
    "copies outside the store: lists and reports that were written elsewhere, backups, snapshots of the file system, "
    "and the free blocks of its disk"
)
_CACHES = (
    "caches of other machines: each follows with its next command, but reports, checkpoints, its outbox and copies of "
    "remote sources stay; a copy of a table brings the person back: run `darec forget` on each machine that reads one"
)
_LISTS = "lists of all users, which could not be written again: delete them if there are any in this folder"
_PUSHED = "logs, snapshots and backups of the vector store, and its free blocks until it uses them again"
_OLD_TEXTS = "texts of the person whose artifacts were removed: a ledger does not contain user ids"


class Holder(Protocol):
    """Other data in the store that may contain the person: copies of remote sources."""

    @property
    def named(self) -> bool:
        """Whether it contains the person."""
        ...

    def counts(self) -> dict[str, int]:
        """The number of objects to remove, by kind."""
        ...

    def remove(self) -> None:
        """Removes it."""
        ...


def forget(
    store: Store,
    user_id: str,
    *,
    why: str = "",
    who: str = "",
    left: Sequence[str] = (),
    copies: Holder | None = None,
    dry_run: bool = False,
    vectors: VectorsConfig | None = None,
    lists: ListsConfig | None = None,
    rules: RulesConfig | None = None,
) -> Receipt:
    """Removes a person from the store; with `dry_run` it only counts the data that contains the person.

    Args:
        store: the store.
        user_id: the external id.
        why: the reason, for the receipt; the id is removed from it.
        who: the person who runs it; by default the user of the machine.
        left: data outside the store that contains the person, for the receipt.
        copies: the copies of remote sources in the store.
        dry_run: change nothing.
        vectors: the vector store that releases are pushed into, where the person is removed first.
        lists: the lists of all users, which are written again without the person if they are in their folder.
        rules: the rules of these lists.

    Raises:
        UserError: the store does not contain this id (the nearest ones are named), a release record cannot be read, or
            the lists cannot be written.
        DarecError: the bundle in production is damaged.
        TransientError: a run is active, a file cannot be read temporarily, or the vector store does not answer.
    """
    with store.in_use() if dry_run else alone(store), store.lease(LEASE):
        if not dry_run:
            _empty(store, "tmp")  # of a call that was killed

        person = _Person(store, user_id)
        person.check(elsewhere=copies is not None and copies.named)
        counts = person.counts() | (copies.counts() if copies is not None else {})

        if vectors is not None:
            left = (*left, _PUSHED)
            counts["rows of the vector store"] = _from_vector_store(vectors, user_id, dry_run)

        if lists is not None:
            follow = _lists_follow(person, lists)
            counts["lists of all users written again"] = int(follow is True)
            left = (*left, *([f"{_LISTS}: {lists.out}"] if follow is None else []))

        receipt = Receipt(
            at=datetime.now(UTC),
            who=who or whoami(),
            why=person.without(why),
            dry_run=dry_run,
            counts=counts,
            left=(
                *left,
                *([_CACHES] if store.shared is not None else []),
                *person.unmatched,
                _OLD_TEXTS,
                _LEARNED,
                _ELSEWHERE,
                *_foreign_files(store),
            ),
        )
        if dry_run:
            return receipt

        if copies is not None:
            copies.remove()
        return _remove(store, person, receipt, lists, rules or RulesConfig())


@dataclass(frozen=True)
class _LedgerRows:
    """Rows of one ledger, by the values of one column."""

    kind: str
    ledger: Ledger
    column: str
    values: Sequence[str | bytes]


class _Person:
    """Searches a store for a person, without changing it."""

    def __init__(self, store: Store, user_id: str) -> None:
        self.store, self.user_id = store, user_id
        self.unmatched: list[str] = []
        """Data of the person that could not be traced further, in words."""
        self._held: dict[Path, bool] = {}
        self._answers: dict[Path, set[bool | None]] = {}
        self._word = re.compile(rf"(?<!\w){re.escape(user_id)}(?!\w)")

    def check(self, elsewhere: bool) -> None:
        """Raises an error unless the person is known, here or elsewhere, and every release can be rewritten."""
        if self.unreadable:
            hint = "restore it or move it away: it may be the record of a bundle that holds the person"
            raise UserError("a release record cannot be read", where=str(self.unreadable[0]), hint=hint)

        if not elsewhere and not any(True in self._listed(artifact) for artifact in self._everything):
            what = f"user {self.user_id!r} is not in the store"
            raise UserError(what, where=str(self.store.root), hint=nearest("user", self.user_id, _known(self.store)))

        current = self.store.root / (CurrentLink(self.store).follow().artifact or "current")
        if current in {artifact.path for artifact in self.removed} and (trouble := Artifact(current).damage(True)):
            hint = "`darec rollback`, or run again to export it again; then forget again"
            raise DarecError(f"the bundle in production is damaged: {trouble}", where=str(current), hint=hint)

    def counts(self) -> dict[str, int]:
        """The number of objects of each kind."""
        found = {
            "releases rewritten": len(self.bundles),
            "artifacts deleted": len(self.removed),
            "reports deleted": len(self.pages),
            "reasons removed": len(self.records) + sum(line != old for old, line in self.nights),
            "checkpoints and damaged artifacts deleted": sum(
                len(list((self.store.root / room).glob(pattern))) for room, pattern in _SCRATCH.items()
            ),
        }
        for rows in self.rows:
            found[rows.kind] = found.get(rows.kind, 0) + rows.ledger.holding(rows.column, rows.values)
        beside = [path for rows in self.rows for path in rows.ledger.beside(rows.column, rows.values)]
        return found | {"old and damaged ledger files": len(beside)}

    # Artifacts

    def names(self, artifact: Artifact) -> bool:
        """Whether a table of the artifact contains the id, or cannot be read."""
        return bool(self._listed(artifact) & {True, None})

    def _listed(self, artifact: Artifact) -> set[bool | None]:
        """Whether each table of the artifact contains the id; None for an unreadable table."""
        if artifact.path not in self._answers:
            fetched: set[bool | None] = set() if self._fetch_tables(artifact) else {None}
            tables = artifact.path.rglob("*.parquet")
            self._answers[artifact.path] = fetched | {_lists(path, self.user_id) for path in tables}
        return self._answers[artifact.path]

    def _fetch_tables(self, artifact: Artifact) -> bool:
        """Downloads tables that only a shared store has. Returns whether all tables are available."""
        if self.store.shared is None:
            return True
        try:
            artifact.fetch(name for name in artifact.manifest.files if name.endswith(".parquet"))
            return True
        except TransientError:
            raise
        except DarecError:
            return False

    def holds(self, artifact: Artifact) -> bool:
        """Whether the artifact names the person, was made from one that does, or has unknown inputs.

        The tables of a bundle contain everything that it needs of its inputs.
        """
        if artifact.path not in self._held:
            self._held[artifact.path] = self.names(artifact) or (
                artifact.stage != "export" and any(self._came_with(*each) for each in _inputs(artifact))
            )
        return self._held[artifact.path]

    def _came_with(self, stage: str, record: InputRecord | None) -> bool:
        if record is None:
            return True
        if record.files and {(stage, name) for name in record.files} <= _OF_ITEMS:
            return False
        source = self.store.input(stage, record)
        known = source.matches(record) if record.files else source.path.is_dir()
        return not known or self.holds(source)

    @cached_property
    def _everything(self) -> list[Artifact]:
        """All artifacts, including replaced ones."""
        replaced = sorted((self.store.root / "replaced").glob(f"*/*/*/{MANIFEST}"))
        return [*self.store.artifacts(), *(Artifact(path.parent) for path in replaced)]

    @cached_property
    def _releases(self) -> tuple[list[Release], list[Path]]:
        return Records(self.store).read()

    @property
    def unreadable(self) -> list[Path]:
        """Release records that cannot be read."""
        return self._releases[1]

    @cached_property
    def bundles(self) -> list[Artifact]:
        """The intact bundles of releases, and the one in production, that name the person; oldest first."""
        ordered = [release.artifact for release in reversed(self._releases[0])]
        if current := CurrentLink(self.store).follow().artifact:
            ordered.append(current)
        found = [Artifact(self.store.root / name) for name in dict.fromkeys(ordered)]
        exported = set(self.store.artifacts("export"))
        return [each for each in found if each in exported and not each.damage(checksums=True) and self.names(each)]

    @cached_property
    def removed(self) -> list[Artifact]:
        """The artifacts to delete, without bundles that are rewritten; those that name the person come last."""
        held = [each for each in self._everything if each not in self.bundles and self.holds(each)]
        return sorted(held, key=self.names)

    # Texts and vectors

    @cached_property
    def texts(self) -> set[str]:
        """Every text about the person in an artifact."""
        found: set[str] = set()
        for artifact in self._held_of(files.USER_PROFILES.stage):
            with self._traced(artifact):
                profiles = files.USER_PROFILES.of(artifact)
                found |= set(profiles.filter(pl.col(c.USER) == self.user_id)[c.PROFILE]) - {""}
        return found

    @cached_property
    def vectors(self) -> set[bytes]:
        """Every text vector of the person in an artifact, in the form of the ledgers."""
        found: set[bytes] = set()
        for artifact in self._held_of(files.TEXT_VECTORS.stage):
            with self._traced(artifact):
                source = self.store.input(
                    files.USER_PROFILES.stage, artifact.manifest.inputs[files.USER_PROFILES.stage]
                )
                row = files.USER_PROFILES.of(source)[c.USER].index_of(self.user_id)
                if row is not None:
                    found.add(files.TEXT_VECTORS.of(artifact).user[row].astype("<f4").tobytes())

        return found

    def _held_of(self, stage: str) -> Iterator[Artifact]:
        return (artifact for artifact in self._everything if artifact.stage == stage and self.holds(artifact))

    @contextmanager
    def _traced(self, artifact: Artifact) -> Iterator[None]:
        """Records an unreadable artifact for the receipt."""
        try:
            yield
        except TransientError:
            raise
        except (DarecError, KeyError):
            name = f"{artifact.stage} {artifact.key}"
            self.unmatched.append(f"rows of the row ledgers that {name} used: it could not be read")

    @cached_property
    def rows(self) -> list[_LedgerRows]:
        """The values to search in each row ledger."""
        root, texts, vectors = self.store.ledger, sorted(self.texts), sorted(self.vectors)
        stems = {path.with_suffix("").name for path in root.glob("vectors-*.sqlite")}
        stems |= {path.name for path in root.glob("vectors-*") if path.is_dir()}
        if self.store.shared is not None:
            stems |= {name for name in ledgers(self.store.shared) if name.startswith("vectors-")}
        profiles = _LedgerRows("profiles", Ledger(root / "profiles.sqlite", PROFILE_ROWS), "text", texts)

        return [profiles] + [
            _LedgerRows("text vectors", Ledger(root / f"{stem}.sqlite", VECTOR_ROWS), "vector", vectors)
            for stem in sorted(stems)
        ]

    # Pages and records

    @cached_property
    def pages(self) -> list[Path]:
        """HTML reports that name the person, show the text, or were made from artifacts that hold the person."""
        releases = {release.id: self.store.root / release.artifact for release in self._releases[0]}
        held = {artifact.path for artifact in (*self.bundles, *self.removed)}

        def concerns(page: Path) -> bool:
            stage, _, key = page.stem.rpartition("-")
            made_from = releases.get(page.stem, self.store.artifact(stage, key).path)
            text = page.read_text(encoding="utf-8", errors="replace")
            return made_from in held or not made_from.is_dir() or self.mentioned(text)

        drafts = (self.store.root / "reports").glob(".*")  # of runs that were killed
        return [*drafts, *(page for page in sorted((self.store.root / "reports").glob("[!.]*.html")) if concerns(page))]

    @cached_property
    def records(self) -> list[Release]:
        """Release records whose reasons name the person, rewritten without the name."""
        found = []
        for release in self._releases[0]:
            by_hand = [
                event.what in ("promoted", "rolled_back") and self.mentioned(event.why) for event in release.events
            ]
            if any(by_hand):
                pairs = zip(release.events, by_hand, strict=True)
                events = [event.model_copy(update={"why": _REMOVED}) if hit else event for event, hit in pairs]
                found.append(release.model_copy(update={"events": tuple(events)}))

        return found

    @cached_property
    def nights(self) -> list[tuple[str, str | None]]:
        """The lines of the history of runs, rewritten without messages that name the person."""
        path = self.store.root / NIGHTS_FILE
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        return [(line, self._cleared(line)) for line in lines]

    def _cleared(self, line: str) -> str | None:
        try:
            night = Night.model_validate_json(line)
        except ValidationError:
            return None if self.mentioned(line) else line
        if not night.failed or not self.mentioned(night.why):
            return line
        return night.model_copy(update={"why": _REMOVED}).model_dump_json()

    def mentioned(self, text: str) -> bool:
        """Whether a text contains the id as a word, or a text about the person."""
        return bool(self._word.search(text)) or any(known in text for known in self.texts)

    def without(self, text: str) -> str:
        """A text with the id replaced."""
        return self._word.sub("(the person)", text)


def _lists(path: Path, user_id: str) -> bool | None:
    """Whether a table contains the id; None if it cannot be read.

    Raises:
        OSError: it exists and cannot be read.
    """
    try:
        table = pl.scan_parquet(path, glob=False)
        if c.USER not in table.collect_schema():
            return False
        return table.filter(pl.col(c.USER) == user_id).head(1).collect().height > 0
    except pl.exceptions.PolarsError:
        return None


def _inputs(artifact: Artifact) -> list[tuple[str, InputRecord | None]]:
    try:
        return list(artifact.manifest.inputs.items())
    except TransientError:
        raise
    except DarecError:
        return [("", None)]


def _known(store: Store) -> pl.Series:
    """The user ids in artifacts, as far as they can be read."""
    found = [pl.Series(c.USER, [], pl.String)]
    for path in sorted((store.root / "artifacts").glob(f"*/*/{files.USERS.name}")):
        with suppress(pl.exceptions.PolarsError):
            found.append(pl.read_parquet(path, columns=[c.USER])[c.USER])
    return pl.concat(found).drop_nulls().unique().sort()


def _foreign_files(store: Store) -> Iterator[str]:
    """Files of others in the store, which are neither searched nor changed."""
    beside = [path for path in store.root.iterdir() if path.name not in _OURS]
    within = [path for path in (store.root / "artifacts").glob("*/*") if not (path / MANIFEST).is_file()]
    copies = store.root / COPIES
    within += set(copies.glob("*")) - set(copies.glob(COPY_FOLDERS))
    for path in sorted([*beside, *within]):
        yield f"this does not belong to darec and was not searched: {path}"


def _from_vector_store(config: VectorsConfig, user_id: str, dry_run: bool) -> int:
    """Removes the person from all versions, unless `dry_run`, and returns the number of versions that contained them.

    Raises:
        TransientError: the vector store does not answer.
    """
    try:
        with open_store(config) as pushed:
            found = pushed.holding(user_id)
            if not dry_run:
                pushed.forget(user_id)
    except TransientError as error:
        hint = "nothing was removed from the store of darec: run `darec forget` again when the vector store answers"
        raise TransientError(error.what, where=error.where, hint=hint) from error
    return found


def _lists_follow(person: _Person, config: ListsConfig) -> bool | None:
    """Whether the lists in the folder will be of another release than the one in production, whose bundle may be
    rewritten; None if no lists or no release can be read.
    """
    there, target = written(config.out), CurrentLink(person.store).follow()
    if there is None or target.artifact is None or target.trouble is not None:
        return None
    current = Artifact(person.store.root / target.artifact)
    return current in person.bundles or there.release != current.key


def _write_lists(store: Store, config: ListsConfig | None, rules: RulesConfig) -> None:
    """Writes the lists again from the release in production, unless they are those of this release."""
    target = CurrentLink(store).follow()
    if target.artifact is None or target.trouble is not None:
        return
    try:
        follow_by_hand(store.root / target.artifact, config, rules)
    except DarecError as error:
        hint = f"{error.hint}; then run `darec forget` again, because the lists may contain the person"
        raise type(error)(error.what, where=error.where, hint=hint) from error


def _remove(store: Store, person: _Person, receipt: Receipt, lists: ListsConfig | None, rules: RulesConfig) -> Receipt:
    """Removes the data that was found. The receipt is written just before the files that name the
    person are deleted.
    """
    for page in person.pages:
        page.unlink()
    for record in person.records:
        Records(store).write(record)
    if any(new != old for old, new in person.nights):
        lines = "".join(f"{new}\n" for _, new in person.nights if new is not None)
        _write(store, store.root / NIGHTS_FILE, lines)

    counts = receipt.counts | {rows.kind: 0 for rows in person.rows}
    for rows in person.rows:
        counts[rows.kind] += rows.ledger.forget(rows.column, rows.values)
    for bundle in person.bundles:
        _replace(store, bundle, person.user_id)
    _write_lists(store, lists, rules)

    for room in _SCRATCH:
        _empty(store, room)
        if store.shared is not None:
            store.shared.empty(room)

    for artifact in person.removed:
        if not person.names(artifact):
            _delete(store, artifact)

    done = receipt.model_copy(update={"counts": counts})
    _write(store, store.make(RECEIPTS) / f"{done.at:%Y-%m-%dT%H%M%S.%fZ}.json", done.model_dump_json(indent=1))
    for artifact in (*person.removed, *person.bundles):
        if person.names(artifact):
            _delete(store, artifact)

    if store.shared is not None:
        store.shared.sweep(LEASE)  # uploads of killed runs may also contain the person
    return done


def _replace(store: Store, old: Artifact, user_id: str) -> None:
    """Writes the bundle without the person and points `current` and the release records to it; the old one is kept."""
    with store.draft(old.stage, old.key) as draft:
        report = write_without(old.path, draft, user_id)
        written = file_records(draft)
        hashes = {name: record.sha256 for name, record in written.items()}
        facts = report.model_dump(mode="json", include={"interactions", "users"})
        manifest = old.manifest.model_copy(
            update={
                "key": artifact_key({"in place of": old.key, "files": hashes}),
                "why": ("a person was forgotten",),
                "files": written,
                "report": old.manifest.report | {name: facts[name] for name in facts.keys() & old.manifest.report},
            }
        )
        new = store.commit(draft, manifest)

    # The link is changed first: the next call finds a record of the old bundle, but not a link to it.
    before, after = (str(artifact.path.relative_to(store.root)) for artifact in (old, new))
    link, records = CurrentLink(store), Records(store)
    if link.follow().artifact == before:
        link.point_to(after)

    for release in records.read()[0]:
        if release.artifact == before:
            content = content_hash(hashes, hashes)
            records.write(release.model_copy(update={"artifact": after, "content": content, "report": report}))


def _delete(store: Store, artifact: Artifact) -> None:
    store.remove(artifact)
    for folder in (artifact.path.parent, artifact.path.parents[1]):  # of a replaced artifact
        with suppress(OSError):
            if folder.is_relative_to(store.root / "replaced"):
                folder.rmdir()


def _empty(store: Store, room: str) -> None:
    for path in (store.root / room).glob("*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write(store: Store, path: Path, text: str) -> None:
    """Writes or replaces a file that only its owner may read."""
    if store.shared is not None:
        store.shared.write(str(path.relative_to(store.root)), text.encode())
        return
    draft = store.make("tmp") / f"forget-{uuid.uuid4().hex[:8]}"
    with explained(path), replacing(path, draft=draft, durable=True):
        draft.touch(mode=0o600)
        draft.write_text(text, encoding="utf-8")
