"""Releases: publishing, promotion, rollback, and the bundle in production.

    <store>/current               symbolic link to the bundle in production, replaced in one rename
    <store>/releases/<id>.json    one record per bundle that the gate has checked (`schemas.release.Release`)
    <store>/leases/releases.lock  held by a process that changes one of these

Only the link determines the current release. A record is always written before the link is changed, so a process killed
at any moment leaves the old or the new release in production, and a second call completes the work.

Unreadable records and other files among the records are logged once and ignored; the other releases can be used. If the
link does not point to a release (`Releases.trouble`), a new bundle is compared with the last release that was in
production according to the records; `promote`, `rollback` and the next published bundle repair the link.
"""

import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from getpass import getuser
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from darec.artifacts.keys import content_hash, differences
from darec.artifacts.lineage import latest_by_stage
from darec.artifacts.store import Artifact, Store
from darec.common.errors import DarecError, UserError
from darec.common.warnings import warn_once
from darec.serving.gate import RULES, decide
from darec.serving.records import CurrentLink, Records
from schemas.release import BundleReport, Decision, Event, GateConfig, Release
from schemas.training import EvaluateConfig

LEASE = "releases"
_ENTERED = ("published", "promoted")  # events that put a release into production
_REPAIR = "`darec rollback`, or `darec promote` one of `darec releases`"
_SHORTEST = 8  # minimum number of characters of an abbreviated id


@dataclass(frozen=True)
class Diff:
    """The differences between two releases; pairs are (of a, of b)."""

    metrics: dict[str, tuple[float | None, float | None]]
    """Every metric of either."""
    sizes: dict[str, tuple[int, int]]
    """users, items, interactions, width."""
    config: list[str]
    """`stage.config.field: a -> b` for all differences in the keys of both lineages, as far as they are kept."""


class Releases:
    """The releases of one store."""

    def __init__(self, root: Path) -> None:
        self._store = Store(root)
        self._records, self._link = Records(self._store), CurrentLink(self._store)

    def refresh(self) -> None:
        """Downloads changes of releases by other machines, if the store is shared."""
        self._store.sync()

    def all(self) -> list[Release]:
        """All bundles that the gate has checked and whose record can be read, newest first."""
        return self._records.read()[0]

    def current(self) -> Release | None:
        """The release in production; None before the first one. If the link does not point to a release, a warning is
        logged and None is returned.
        """
        releases = self.all()
        if trouble := self._trouble(releases):
            warn_once(f"{trouble} [{self._link.path}] -> {_REPAIR}")
        return self._pointed(releases)

    def trouble(self) -> str | None:
        """The problem of the link `current`, or None."""
        return self._trouble(self.all())

    def get(self, release_id: str) -> Release:
        """The release with this id, or whose id begins or ends with these eight or more characters.

        Raises:
            UserError: unless there is exactly one.
        """
        releases = self.all()
        exact = [release for release in releases if release.id == release_id]
        parts = releases if len(release_id) >= _SHORTEST else []
        fits = exact or [r for r in parts if r.id.startswith(release_id) or r.id.endswith(release_id)]
        if len(fits) == 1:
            return fits[0]

        what = f"{release_id!r} names {'more than one' if fits else 'no'} release"
        if not fits and len(release_id) < _SHORTEST:
            what += f" (an abbreviation needs at least {_SHORTEST} characters)"
        known = ", ".join(release.id for release in (fits or releases)[:5])
        raise UserError(what, where=str(self._records.folder), hint=f"known, newest first: {known or 'none'}")

    def of_bundle(self, bundle: Path) -> Release | None:
        """The record of this bundle, or of another artifact with the same bytes."""
        return self._of_content(_content(bundle), self.all())

    def folder(self, release: Release) -> Path:
        """The path of the release's bundle, which gc may have removed."""
        return self._store.root / release.artifact

    def serving(self) -> Path:
        """The folder of the bundle in production, whether or not its record can be read.

        Raises:
            UserError: nothing has been published yet.
            DarecError: the link `current` is dangling, or points outside this store.
        """
        target = self._link.follow()
        if target.artifact is not None and target.trouble is None:
            return self._store.root / target.artifact
        if self._trouble(self.all()) is None:
            hint = "`darec run` makes the first release"
            raise UserError("nothing has been published yet", where=str(self._link.path), hint=hint)
        raise DarecError(str(target.trouble), where=str(self._link.path), hint=_REPAIR)

    def settled(self, bundle: Path, gate: GateConfig) -> str | None:
        """Why publishing this bundle would change nothing; None if it has not been gated yet.

        A bundle in production stays current; one that was rolled back is not published until it is promoted manually; a
        refused one stays refused while the current release and the gate's configuration are the same.
        """
        return self._settled(bundle, gate, self.all())

    def publish(self, bundle: Path, gate: GateConfig, who: str = "", evaluate: EvaluateConfig | None = None) -> Release:
        """Puts the bundle into production if it passes the gate; the record's `summary` states the outcome.

        A bundle that was in production before and is refused now keeps its state, so that a rollback to its release is
        still possible; the refusal is an event of its record. `evaluate` has the protocol and the device of the
        comparison.

        Raises:
            DarecError: the bundle is damaged or not in this store; nothing was changed.
        """
        while True:
            releases = self.all()
            known, pointed = self._of_content(_content(bundle), releases), self._pointed(releases)
            production = self._production(releases)
            if known and self._settled(bundle, gate, releases):
                return known
            self._verify(bundle)

            # The measurement takes some time, and a rollback must not wait for it: the lease is acquired afterwards.
            judged = self._judge(bundle, known, releases, gate, who, evaluate or EvaluateConfig())
            with self._store.lease(LEASE):
                if _history(self.all()) != _history(releases) or self._pointed(releases) != pointed:
                    continue  # another process has published, promoted or rolled back in the meantime
                if judged.outcome == "refused":
                    return self._records.write(judged)
                return self._enter(judged, production)

    def promote(self, release_id: str, who: str = "", why: str = "by hand") -> Release:
        """Makes a release current, regardless of the decision of the gate.

        Raises:
            UserError: no such release, or its bundle was removed.
            DarecError: its bundle is damaged.
        """
        with self._store.lease(LEASE):
            release, releases = self.get(release_id), self.all()
            self._verify(self.folder(release))
            pointed = self._pointed(releases)
            if pointed and pointed.id == release.id:
                return release
            event = _event("promoted", who, why)
            promoted = release.model_copy(update={"state": "published", "events": (*release.events, event)})
            return self._enter(promoted, self._production(releases))

    def rollback(self, who: str = "", why: str = "by hand") -> Release:
        """Returns to the previous release. The replaced release is marked and not published again automatically.

        Releases with damaged or missing bundles are skipped. If the record of the current release is missing, the
        target is the last release that was in production according to the other records. If the disk is full, the
        rollback succeeds, but the replaced release cannot be marked, and a warning is logged.

        Raises:
            UserError: there is no current release, or no earlier one.
        """
        with self._store.lease(LEASE):
            releases = self.all()
            left = self._pointed(releases)
            target = self._before(left, releases)
            event = _event("rolled_back", who, why)
            if left:
                marked = left.model_copy(update={"state": "rolled_back", "events": (*left.events, event)})
            else:
                marked = self._unrecorded(event)
            try:
                if marked:
                    self._records.write(marked)
            except UserError as error:
                warn_once(f"the release that was left is not marked as rolled back and may be published again: {error}")
            self._link.point_to(target.artifact)
            return target

    def referenced(self, keep: int) -> set[Artifact]:
        """The bundles that gc must keep: the current one, the targets of `rollback`, and the newest `keep`.

        These `keep` are neither current nor refused, so that refused bundles do not displace good ones. While a record
        cannot be read, gc must keep every bundle without a readable record.
        """
        releases, unreadable = self._records.read()
        current = self._production(releases)
        needed = {current.id, current.previous} if current else set()
        good = [r.id for r in releases if r.state != "refused" and r != current]
        ids = needed | set(good[:keep])
        bundles = {Artifact(self.folder(release)) for release in releases if release.id in ids}
        current_bundle = self._link.follow().artifact
        if current_bundle and self._pointed(releases) is None:  # even without a record, readers use it
            bundles |= {Artifact(self._store.root / current_bundle)} & set(self._store.artifacts("export"))
        if unreadable:
            known = {Artifact(self.folder(release)) for release in releases}
            bundles |= set(self._store.artifacts("export")) - known

        return bundles

    def compared(self) -> set[Artifact]:
        """The artifacts that `gate.floor` compares with, by the gate settings of the latest release.

        These are the bundles and, for refitted ones, the vectors of the evaluated model with their vocabularies.
        """
        releases = self.all()
        production = self._production(releases)
        nights = production.gate.best_of_nights if production else 0
        window = self._window(releases, nights)
        bundles = {Artifact(self.folder(release)) for release in window}
        refitted = [Artifact(self.folder(release)) for release in window if release.report.trained_on == "all"]
        return bundles.union(*map(self._evaluated_vectors, refitted))

    def diff(self, a: str, b: str) -> Diff:
        """Compares release `b` with release `a`. Raises UserError if one does not exist."""
        old, new = self.get(a), self.get(b)
        metrics = sorted(old.report.metrics | new.report.metrics, key=_by_cutoff)
        sizes = _sizes(old.report), _sizes(new.report)
        return Diff(
            metrics={name: (old.report.metrics.get(name), new.report.metrics.get(name)) for name in metrics},
            sizes={name: (sizes[0][name], sizes[1][name]) for name in sizes[0]},
            config=differences(self._lineage(old), self._lineage(new)),
        )

    def _evaluated_vectors(self, bundle: Artifact) -> set[Artifact]:
        """The vectors of the evaluated model of a refitted bundle, with their vocabularies."""
        try:
            inputs = bundle.manifest.inputs
        except DarecError:  # it is damaged or removed, and is no longer compared
            return set()
        return {self._store.input(stage, record) for stage, record in inputs.items() if stage in ("split", "train")}

    def _pointed(self, releases: Sequence[Release]) -> Release | None:
        """The release of the link; its bundle may be missing."""
        artifact = self._link.follow().artifact
        return next((release for release in releases if release.artifact == artifact), None)

    def _trouble(self, releases: Sequence[Release]) -> str | None:
        target = self._link.follow()
        if target.trouble is not None:
            never = not self._link.exists and self._production(releases) is None
            return None if never else target.trouble
        if self._pointed(releases) is None:
            return f"`current` points to {target.artifact}, which has no readable record"
        return None

    def _production(self, releases: Sequence[Release]) -> Release | None:
        """The current release or, without a valid link, the last one that was current according to the records."""
        if pointed := self._pointed(releases):
            return pointed
        return next(self._once_current(releases), None)

    def _once_current(self, releases: Sequence[Release]) -> Iterator[Release]:
        """Releases that entered production and were not rolled back, the last one first."""

        def entered(release: Release) -> datetime:
            dates = [event.at for event in release.events if event.what in _ENTERED]
            return max(dates, default=release.created)

        yield from sorted((r for r in releases if r.state == "published"), key=entered, reverse=True)

    def _before(self, left: Release | None, releases: Sequence[Release]) -> Release:
        """The target of a rollback: the nearest release before `left` that is intact and was not rolled back."""
        hint = "`darec promote` accepts any release that `darec releases` lists"
        refusal = None

        for release in self._earlier(left, releases):
            if release.state == "rolled_back":
                what = f"{release.id}, the release before, was rolled back too"
                trouble = UserError(what, where=str(self._link.path), hint=hint)
            else:
                try:
                    self._verify(self.folder(release))
                    return release
                except DarecError as error:
                    warn_once(f"{release.id} is skipped: {error}")
                    trouble = error
            refusal = refusal or trouble

        if refusal:
            raise refusal
        if left:
            raise UserError(
                f"{left.id} is the first release: there is none before", where=str(self._link.path), hint=hint
            )

        raise UserError("there is no release to roll back", where=str(self._link.path), hint="run the pipeline first")

    def _earlier(self, left: Release | None, releases: Sequence[Release]) -> Iterator[Release]:
        """The releases before `left`, nearest first; if a record is missing, all that were once in production."""
        by_id = {release.id: release for release in releases}
        met: set[str] = set()
        while left:
            met.add(left.id)
            if left.previous is None or left.previous in met:
                return
            left = by_id.get(left.previous)
            if left:
                yield left

        broken = self._link.follow().artifact
        yield from (r for r in self._once_current(releases) if r.id not in met and r.artifact != broken)

    def _unrecorded(self, event: Event) -> Release | None:
        """A record with the state rolled back for a bundle in production without one; None if the bundle cannot be
        read.
        """
        from darec.serving.bundle import read_report

        target = self._link.follow()
        if target.artifact is None or target.trouble is not None:
            return None

        bundle = self._store.root / target.artifact
        try:
            facts = self._new(bundle, event) | {
                "artifact": target.artifact,
                "content": _content(bundle),
                "state": "rolled_back",
                "judged_against": None,
                "gate": GateConfig(),
                "decision": Decision(passed=False, checks=()),
                "report": read_report(bundle),
                "events": (event,),
            }
            release = Release.model_validate(facts)
        except (DarecError, ValidationError):
            return None

        if os.path.lexists(self._records.folder / f"{release.id}.json"):  # the unreadable record
            return release.model_copy(update={"id": f"{release.id}-{uuid.uuid4().hex[:4]}"})
        return release

    def _of_content(self, content: str, releases: Sequence[Release]) -> Release | None:
        return next((release for release in releases if release.content == content), None)

    def _settled(self, bundle: Path, gate: GateConfig, releases: Sequence[Release]) -> str | None:
        known = self._of_content(_content(bundle), releases)
        if known is None:
            return None

        pointed = self._pointed(releases)
        if pointed and known.id == pointed.id and Artifact(self.folder(known)).damage() is None:
            return f"{known.id} is current already"
        if known.state == "rolled_back":
            return f"{known.id} was rolled back; `darec promote {known.id}` brings it back"

        production = self._production(releases)
        judged = (known.judged_against, known.gate, known.decision.rules)
        if not known.decision.passed and judged == (production and production.id, gate, RULES):
            return f"{known.id} was refused: {known.decision.reason}"
        return None

    def _window(self, releases: Sequence[Release], nights: int) -> list[Release]:
        """The last `nights` releases that were in production, the last one first, and none before a promoted one.

        A manual promotion accepts the release, so earlier and better ones are no longer compared.
        """
        window = []
        for release in islice(self._once_current(releases), nights):
            window.append(release)
            if [event.what for event in release.events if event.what in _ENTERED][-1:] == ["promoted"]:
                break
        return window

    def _verify(self, bundle: Path) -> None:
        """Raises DarecError unless the bundle is intact and in this store."""
        if not bundle.is_dir():
            hint = "choose another of `darec releases`"
            raise UserError("the release's bundle was removed", where=str(bundle), hint=hint)
        self._relative(bundle)
        if trouble := Artifact(bundle).damage(checksums=True):
            hint = "run again to export it again; production is unchanged"
            raise DarecError(f"the bundle is damaged: {trouble}", where=str(bundle), hint=hint)

    def _judge(
        self,
        bundle: Path,
        known: Release | None,
        releases: Sequence[Release],
        gate: GateConfig,
        who: str,
        evaluate: EvaluateConfig,
    ) -> Release:
        """The bundle's record after the decision of the gate: a new one, or the `known` one with an
        additional event.
        """
        from darec.serving.bundle import read_report  # imports Polars and torch, which `settled` does not need
        from darec.serving.evidence import gather

        production = self._production(releases)
        if known and production and known.id == production.id:  # only the link or the bundle's folder was damaged
            event = _event("published", who, "production was repaired")
            facts = {"artifact": self._relative(bundle), "events": (*known.events, event)}
            return known.model_copy(update=facts)

        apart = {release.id for release in (known, production) if release}
        earlier = [r for r in self._window(releases, gate.best_of_nights) if r.id not in apart]
        evidence = gather(self._store, Artifact(bundle), production, earlier, gate, evaluate)
        report = read_report(bundle)
        reports = [release.report for release in earlier]
        decision = decide(report, production.report if production else None, gate, evidence, reports)

        event = _event("published" if decision.passed else "refused", who, decision.reason)
        past = dict(known) if known else self._new(bundle, event)
        once_current = known is not None and known.state == "published"
        present = {
            "artifact": self._relative(bundle),
            "content": _content(bundle),
            "state": "published" if once_current else event.what,
            "judged_against": production.id if production else None,
            "gate": gate,
            "decision": decision,
            "evidence": evidence,
            "report": report,
            "events": (*past["events"], event),
        }
        return Release.model_validate(past | present)

    def _new(self, bundle: Path, event: Event) -> dict[str, Any]:
        number = max((release.number for release in self.all()), default=0) + 1
        return {"id": _id(bundle, event), "number": number, "previous": None, "events": ()}

    def _enter(self, release: Release, current: Release | None) -> Release:
        """Writes the record first, then the link: a kill in between leaves the old release in production."""
        previous = release.previous if current is None or current.id == release.id else current.id
        entered = self._records.write(release.model_copy(update={"previous": previous}))
        self._link.point_to(entered.artifact)
        return entered

    def _relative(self, bundle: Path) -> str:
        try:
            return str(bundle.resolve().relative_to(self._store.root))
        except ValueError as error:
            raise DarecError(
                "the bundle is not in this store", where=str(bundle), hint="publish it from its store"
            ) from error

    def _lineage(self, release: Release) -> dict[str, Any]:
        """The key material of every artifact in the release's lineage, without inputs; removed
        artifacts are left out.
        """
        found: dict[str, Any] = {}
        for stage, artifact in latest_by_stage(self._store, Artifact(self.folder(release))).items():
            try:
                hashed_in = artifact.manifest.fingerprint
            except DarecError:
                continue
            found[stage] = {name: hashed_in[name] for name in ("version", "config", "extra")}
        return found


def _content(bundle: Path) -> str:
    hashes = Artifact(bundle).hashes
    return content_hash(hashes, hashes)


def _id(bundle: Path, event: Event) -> str:
    return f"{event.at:%Y-%m-%dT%H%MZ}-{bundle.resolve().name[:8]}"


def _event(what: str, who: str, why: str) -> Event:
    return Event.model_validate({"at": datetime.now(UTC), "what": what, "who": who or whoami(), "why": why})


def whoami() -> str:
    """The name of the user that this process runs as."""
    try:
        return getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        return f"uid {os.getuid()}"


def _history(releases: Sequence[Release]) -> list[tuple[str, tuple[Event, ...]]]:
    return [(release.id, release.events) for release in releases]


def _sizes(report: BundleReport) -> dict[str, int]:
    counts = {"users": report.users.rows, "items": report.items.rows}
    return counts | {"interactions": report.interactions, "width": report.width}


def _by_cutoff(metric: str) -> tuple[str, int]:
    """Sort key of metrics such as `recall@20`."""
    name, _, cutoff = metric.partition("@")
    return name, int(cutoff or 0)
