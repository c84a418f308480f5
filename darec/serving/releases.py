"""Releases: which bundle is in production, how it came there, and the way back.

    <store>/current               symbolic link to the bundle in production, replaced by one rename
    <store>/releases/<id>.json    one record a bundle that met the gate (`schemas.release.Release`), replaced whole
    <store>/leases/releases.lock  held by whoever changes one of these

The link alone says what is current. A record is always written before the link moves, so a process killed at any
moment leaves the old or the new release in production, and doing it again finishes the work.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from darec.artifacts.keys import content_hash, differences
from darec.artifacts.store import Artifact, Store
from darec.common.errors import DarecError, UserError
from darec.serving.gate import decide
from schemas.release import BundleReport, Event, GateConfig, Release

LEASE = "releases"


@dataclass(frozen=True)
class Diff:
    """What sets one release apart from another; pairs are (of a, of b)."""

    metrics: dict[str, tuple[float | None, float | None]]
    """Every metric of either."""
    sizes: dict[str, tuple[int, int]]
    """users, items, interactions, width."""
    config: list[str]
    """`stage.config.field: a -> b` over all that is hashed into the keys of both lineages, as far as it is kept."""


class Releases:
    """The releases of one store."""

    def __init__(self, root: Path) -> None:
        self._store = Store(root)
        self._folder = self._store.root / "releases"
        self._link = self._store.root / "current"

    def all(self) -> list[Release]:
        """Every bundle that met the gate, newest first."""
        releases = [_read(path) for path in self._folder.glob("*.json")]
        return sorted(releases, key=lambda release: (release.number, release.created, release.id), reverse=True)

    def current(self) -> Release | None:
        """The release in production, None before the first. Raises DarecError if the link has no record."""
        release = self._pointed()
        if release is None and self._link.is_symlink():
            what = f"{self._link.readlink()} is current, but has no record"
            raise DarecError(what, where=str(self._folder), hint="promote one of `darec releases`")
        return release

    def get(self, release_id: str) -> Release:
        """The release whose id is, begins with or ends with `release_id`. Raises UserError unless it is just one."""
        releases = self.all()
        exact = [release for release in releases if release.id == release_id]
        fits = exact or [
            r for r in releases if release_id and (r.id.startswith(release_id) or r.id.endswith(release_id))
        ]
        if len(fits) == 1:
            return fits[0]
        what = f"{release_id!r} names {'more than one' if fits else 'no'} release"
        known = ", ".join(release.id for release in (fits or releases)[:5])
        raise UserError(what, where=str(self._folder), hint=f"known, newest first: {known or 'none'}")

    def of_bundle(self, bundle: Path) -> Release | None:
        """The record of this bundle, or of another artifact with the same bytes."""
        content = _content(bundle)
        return next((release for release in self.all() if release.content == content), None)

    def folder(self, release: Release) -> Path:
        """Where the release's bundle is, or was before gc."""
        return self._store.root / release.artifact

    def settled(self, bundle: Path, gate: GateConfig) -> str | None:
        """Why publishing this bundle would change nothing, None if it has yet to meet the gate.

        A bundle in production stays; one that was rolled back stays out until it is promoted by hand; a refused one
        stays refused while the current release and the gate's configuration are the same.
        """
        known, current = self.of_bundle(bundle), self.current()
        if known is None:
            return None
        if current and known.id == current.id and Artifact(self.folder(known)).damage() is None:
            return f"{known.id} is current already"
        if known.state == "rolled_back":
            return f"{known.id} was rolled back; `darec promote {known.id}` brings it back"
        if known.state == "refused" and (known.judged_against, known.gate) == (current and current.id, gate):
            return f"{known.id} was refused: {known.decision.reason}"
        return None

    def publish(self, bundle: Path, gate: GateConfig, who: str = "") -> Release:
        """Puts the bundle into production if it passes the gate; the returned record's `state` says whether it did.

        Raises:
            DarecError: the bundle is damaged or not in this store; nothing was changed.
        """
        with self._store.lease(LEASE):
            known = self.of_bundle(bundle)
            if known and self.settled(bundle, gate):
                return known
            _verify(bundle)
            current = self.current()
            release = self._judge(bundle, known, current, gate, who)
            return self._enter(release, current) if release.decision.passed else self._write(release)

    def promote(self, release_id: str, who: str = "", why: str = "by hand") -> Release:
        """Puts a release into production, whatever the gate said of it.

        Raises:
            UserError: no such release, or its bundle was removed.
            DarecError: its bundle is damaged.
        """
        with self._store.lease(LEASE):
            release, current = self.get(release_id), self._pointed()
            _verify(self.folder(release))
            if current and current.id == release.id:
                return release
            event = _event("promoted", who, why)
            promoted = release.model_copy(update={"state": "published", "events": (*release.events, event)})
            return self._enter(promoted, current)

    def rollback(self, who: str = "", why: str = "by hand") -> Release:
        """Goes back to the release that was current before; the one left is marked, and not published again by itself.

        Raises:
            UserError: nothing is current, or there is no earlier release to go to.
        """
        with self._store.lease(LEASE):
            current = self.current()
            if current is None:
                raise UserError(
                    "there is no release to roll back", where=str(self._link), hint="run the pipeline first"
                )
            target = self._before(current)
            _verify(self.folder(target))
            event = _event("rolled_back", who, why)
            self._write(current.model_copy(update={"state": "rolled_back", "events": (*current.events, event)}))
            self._point_to(target)
            return target

    def referenced(self, keep: int) -> set[Artifact]:
        """The bundles that gc must leave: the current one, the one `rollback` goes to, and the newest `keep`.

        Those `keep` are neither current nor refused: nights of refused bundles drive no good one out.
        """
        releases, current = self.all(), self.current()
        needed = {current.id, current.previous} if current else set()
        good = [r.id for r in releases if r.state != "refused" and r != current]
        ids = needed | set(good[:keep])
        return {Artifact(self.folder(release)) for release in releases if release.id in ids}

    def diff(self, a: str, b: str) -> Diff:
        """Release `b` beside release `a`. Raises UserError if one does not exist."""
        old, new = self.get(a), self.get(b)
        metrics = sorted(old.report.metrics | new.report.metrics)
        sizes = _sizes(old.report), _sizes(new.report)
        return Diff(
            metrics={name: (old.report.metrics.get(name), new.report.metrics.get(name)) for name in metrics},
            sizes={name: (sizes[0][name], sizes[1][name]) for name in sizes[0]},
            config=differences(self._lineage(old), self._lineage(new)),
        )

    def _pointed(self) -> Release | None:
        if not self._link.is_symlink():
            return None
        target = str(self._link.readlink())
        return next((release for release in self.all() if release.artifact == target), None)

    def _before(self, current: Release) -> Release:
        hint = "`darec releases` lists what `darec promote` can bring back"
        if current.previous is None:
            raise UserError(
                f"{current.id} is the first release: there is none before", where=str(self._link), hint=hint
            )
        target = self.get(current.previous)
        if target.state == "rolled_back":
            raise UserError(f"{target.id}, the release before, was rolled back too", where=str(self._link), hint=hint)
        return target

    def _judge(
        self, bundle: Path, known: Release | None, current: Release | None, gate: GateConfig, who: str
    ) -> Release:
        """The bundle's record as the gate leaves it: a new one, or the `known` one with another event."""
        from darec.serving.bundle import read_report  # brings polars and numpy, which `settled` can do without

        report = read_report(bundle)
        decision = decide(report, current.report if current else None, gate)
        event = _event("published" if decision.passed else "refused", who, decision.reason)
        past = dict(known) if known else self._new(bundle, event)
        present = {
            "artifact": self._relative(bundle),
            "content": _content(bundle),
            "state": event.what,
            "judged_against": current.id if current else None,
            "gate": gate,
            "decision": decision,
            "report": report,
            "events": (*past["events"], event),
        }
        return Release.model_validate(past | present)

    def _new(self, bundle: Path, event: Event) -> dict[str, Any]:
        number = max((release.number for release in self.all()), default=0) + 1
        return {"id": _id(bundle, event), "number": number, "previous": None, "events": ()}

    def _enter(self, release: Release, current: Release | None) -> Release:
        """Record first, then the link: a kill in between leaves the old release in production."""
        previous = release.previous if current is None or current.id == release.id else current.id
        entered = self._write(release.model_copy(update={"previous": previous}))
        self._point_to(entered)
        return entered

    def _write(self, release: Release) -> Release:
        self._folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder / ".draft"
        with draft.open("w", encoding="utf-8") as stream:
            stream.write(release.model_dump_json(indent=1))
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(self._folder / f"{release.id}.json")
        _flush(self._folder)
        return release

    def _point_to(self, release: Release) -> None:
        draft = self._store.root / ".current"
        draft.unlink(missing_ok=True)
        draft.symlink_to(release.artifact)
        draft.replace(self._link)
        _flush(self._store.root)

    def _relative(self, bundle: Path) -> str:
        try:
            return str(bundle.resolve().relative_to(self._store.root))
        except ValueError as error:
            raise DarecError(
                "the bundle is not in this store", where=str(bundle), hint="publish it from its store"
            ) from error

    def _lineage(self, release: Release) -> dict[str, Any]:
        """What was hashed into the key of every artifact behind the release, inputs apart; gaps are left out."""
        found: dict[str, Any] = {}
        todo = [Artifact(self.folder(release))]
        while todo:
            artifact = todo.pop()
            if artifact.stage in found or artifact.damage() is not None:
                continue
            material = artifact.manifest.material
            found[artifact.stage] = {name: material[name] for name in ("version", "config", "extra")}
            todo += [self._store.input(stage, record) for stage, record in artifact.manifest.inputs.items()]
        return found


def _verify(bundle: Path) -> None:
    if not bundle.is_dir():
        raise UserError(
            "the release's bundle was removed", where=str(bundle), hint="choose another of `darec releases`"
        )
    if trouble := Artifact(bundle).damage(checksums=True):
        hint = "run again to export anew; production is unchanged"
        raise DarecError(f"the bundle is damaged: {trouble}", where=str(bundle), hint=hint)


def _content(bundle: Path) -> str:
    hashes = Artifact(bundle).hashes
    return content_hash(hashes, hashes)


def _id(bundle: Path, event: Event) -> str:
    return f"{event.at:%Y-%m-%dT%H%MZ}-{bundle.resolve().name[:8]}"


def _event(what: str, who: str, why: str) -> Event:
    return Event.model_validate({"at": datetime.now(UTC), "what": what, "who": who or _whoami(), "why": why})


def _whoami() -> str:
    try:
        return getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def _sizes(report: BundleReport) -> dict[str, int]:
    counts = {"users": report.users.rows, "items": report.items.rows}
    return counts | {"interactions": report.interactions, "width": report.width}


def _read(path: Path) -> Release:
    try:
        return Release.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DarecError(
            "the release record cannot be read", where=str(path), hint="restore or delete this file"
        ) from error


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
