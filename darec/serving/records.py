"""The files of the release records and the link `current`. Other files are ignored; records are replaced atomically."""

import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from darec.artifacts.shared import CURRENT
from darec.artifacts.store import Store, explained
from darec.common.files import read_bytes, replacing
from darec.common.warnings import warn_once
from schemas.release import Release

_NAME = re.compile(r"[\w-]+\.json")


class Records:
    """`<store>/releases/<id>.json`. Unreadable records and other files are logged once and ignored."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = store.root / "releases"

    def read(self) -> tuple[list[Release], list[Path]]:
        """The releases, newest first, and the records that cannot be read."""
        releases, unreadable = [], []
        for path in self._files():
            try:
                releases.append(_read(path))
            except (OSError, ValueError) as error:
                warn_once(f"ignored, because this release record cannot be read ({_brief(error)}): {path}")
                unreadable.append(path)

        order = sorted(releases, key=lambda release: (release.number, release.created, release.id), reverse=True)
        return order, unreadable

    def write(self, release: Release) -> Release:
        """Writes or replaces the release's record. Raises UserError if the disk is full or not writable."""
        path = self._store.make("releases") / f"{release.id}.json"
        if self._store.shared is not None:
            self._store.shared.write(f"releases/{path.name}", release.model_dump_json(indent=1).encode())
            return release

        draft = self._store.make("tmp") / f"release-{uuid.uuid4().hex[:8]}"
        # The draft is not next to the records, where it would be reported as a stray file.
        with explained(path), replacing(path, draft=draft, durable=True):
            draft.write_text(release.model_dump_json(indent=1), encoding="utf-8")
            self._store.restrict(draft)

        return release

    def _files(self) -> list[Path]:
        """The files with the name of a record."""
        try:
            with os.scandir(self.folder) as entries:
                found = [(Path(entry), entry.is_file(follow_symlinks=False)) for entry in entries]
        except FileNotFoundError:
            return []
        except OSError as error:
            warn_once(f"the release records cannot be listed ({error.strerror}): {self.folder}")
            return []

        records = sorted(path for path, is_file in found if is_file and _NAME.fullmatch(path.name))
        for path in sorted({path for path, _ in found} - set(records)):
            warn_once(f"ignored, because it is not a release record: {path}")
        return records


@dataclass(frozen=True)
class Target:
    """The target of the link."""

    artifact: str | None
    """The bundle's folder relative to the root of the store, which may be missing; None for other folders."""
    trouble: str | None
    """The problem of the link, or None."""


class CurrentLink:
    """`<store>/current`: the symbolic link to the bundle in production."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.path = store.root / CURRENT

    @property
    def exists(self) -> bool:
        """Whether anything exists at its path."""
        return os.path.lexists(self.path)

    def follow(self) -> Target:
        """The target and the problem of the link."""
        try:
            text = str(self.path.readlink())
        except FileNotFoundError:
            return Target(None, "there is no link `current`")
        except OSError:
            return Target(None, "`current` is not a symbolic link")

        try:
            found = self.path.resolve(strict=True)
        except FileNotFoundError:
            named = os.path.normpath(self._store.root / text)  # without following links
            return Target(os.path.relpath(named, self._store.root), f"`current` points to {text}, which does not exist")
        except (OSError, RuntimeError):  # a loop
            return Target(None, f"`current` is a dangling link (it points to {text})")

        if not found.is_relative_to(self._store.root):
            return Target(None, f"`current` points outside this store, to {found}")
        return Target(str(found.relative_to(self._store.root)), None)

    def point_to(self, artifact: str) -> None:
        """Replaces the link in one rename; anything else at its path is moved aside."""
        if self._store.shared is not None:
            self._store.shared.write(CURRENT, artifact.encode())
            return

        draft = self._store.make("tmp") / f"current-{uuid.uuid4().hex[:8]}"
        with explained(self.path):
            if self.exists and not self.path.is_symlink():
                aside = self.path.with_name(f"current-{uuid.uuid4().hex[:8]}")
                self.path.rename(aside)
                warn_once(f"`current` was not a symbolic link; it is now {aside}")
            with replacing(self.path, draft=draft, durable=True):
                draft.symlink_to(artifact)


def _read(path: Path) -> Release:
    """Raises OSError or ValueError for a file that is not the record of its name."""
    release = Release.model_validate_json(read_bytes(path))
    if release.id != path.stem:
        raise ValueError(f"it is the record of {release.id}")
    if not release.events:
        raise ValueError("it has no events")
    return release


def _brief(error: Exception) -> str:
    """The reason why a record cannot be read, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']}"
    return str(error)
