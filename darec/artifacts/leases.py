"""Leases in an object store, for processes on any machine.

An object `leases/<name>.json` names the holder of a lease. It is created, renewed and released by conditional writes,
so that exactly one of several processes succeeds. A thread of the holder renews it. A waiting process polls its
version: if it does not change within the holder's lease time, measured by the clock of the waiting process, the holder
is considered dead and the lease is taken over. Clocks of different machines are never compared.

A process that reads and writes artifacts also has an object `leases/present/<id>.json`. A process that needs exclusive
access (`gc`) holds the lease `alone` and checks that no other process is present.
"""

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from darec.common.errors import DarecError, TransientError
from darec.common.objects import Objects
from darec.common.warnings import warn_once

SECONDS = "DAREC_LEASE_SECONDS"
"""Environment variable: number of seconds without a renewal after which a process counts as dead; default 60."""
MOMENT = 2.0  # a process that waits longer says so
_LOOK = 0.5  # interval between two checks of a lease held by another process, in seconds
_ALONE = "alone"
_PRESENT = "leases/present/"
_KEY = re.compile(r"-[0-9a-f]{20}$")  # in the name of the lease of a stage

_logger = logging.getLogger(__name__)


class Patience:
    """Logs that this process waits for another one, unless it is only for a moment."""

    def __init__(self, name: str) -> None:
        self._name, self._begun, self._said = _KEY.sub("", name), time.monotonic(), False

    def waits(self, holder: str = "another process") -> None:
        """To be called while waiting."""
        if not self._said and time.monotonic() - self._begun > MOMENT:
            self._said = True
            _logger.warning("%s: %s is at work; waiting until it has finished", self._name, holder)


class Leases:
    """The leases of one store. `seconds`: the time after which a lease expires unless it is renewed."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.seconds = float(os.environ.get(SECONDS) or 60)
        self._lock, self._present, self._renewal = threading.Lock(), 0, None

    @contextmanager
    def hold(self, name: str, *, wait: bool = True) -> Iterator[None]:
        """Holds a lease; waits while another living process holds it.

        Raises:
            BlockingIOError: another living process holds it, and `wait` is off.
        """
        path = _path(name)
        renewal = _Renewal(self._objects, path, self.seconds, self._take(name, wait))
        try:
            yield
        finally:
            renewal.end()
            if renewal.version:
                with suppress(DarecError):  # then it expires
                    # It is marked as free and not deleted, because deletion is unconditional.
                    self._objects.swap(path, b"{}", renewal.version)

    @contextmanager
    def present(self) -> Iterator[None]:
        """Registers this process as a user of the store. Waits while another process has exclusive access."""
        with self._lock:
            if self._present == 0:
                self._renewal = self._announce()
            self._present += 1
        try:
            yield
        finally:
            with self._lock:
                self._present -= 1
                if self._present == 0 and self._renewal is not None:
                    self._renewal.end()
                    with suppress(DarecError):  # then it expires
                        self._objects.delete([self._renewal.path])

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Excludes all other processes. Raises BlockingIOError if a living process is present."""
        with self.hold(_ALONE, wait=False):
            dead = self._dead([each.name for each in self._objects.list(_PRESENT)])
            self._objects.delete(dead)
            yield

    def sweep(self, keep: str) -> None:
        """Deletes the objects of leases that no process holds, except the one named `keep`.
        Requires exclusive access.
        """
        names = [each.name for each in self._objects.list("leases/") if not each.name.startswith(_PRESENT)]
        kept = {_path(keep), _path(_ALONE)}
        self._objects.delete(name for name in names if name not in kept)

    def _take(self, name: str, wait: bool) -> str:
        """Acquires the lease and returns its version."""
        path, patience = _path(name), Patience(name)
        watch = _Watch(self._objects, path)
        while True:
            content = _content(self.seconds)
            if (version := self._objects.create(path, content)) is not None:
                return version
            holder = watch.look()
            if watch.is_free and watch.version:
                if (version := self._objects.swap(path, content, watch.version)) is not None:
                    if holder:
                        warn_once(f"{path}: taken over from {holder}, which has not renewed it for {watch.lasts:g} s")
                    return version
            elif watch.is_alive and not wait:
                raise BlockingIOError(f"{holder} holds {path}")
            else:
                patience.waits(holder)
                time.sleep(_LOOK)

    def _announce(self) -> "_Renewal":
        """The process registers before it checks, so that of two processes at least one sees the other."""
        path, alone = f"{_PRESENT}{uuid.uuid4().hex}.json", _Watch(self._objects, _path(_ALONE))
        patience = Patience("the whole store")
        while True:
            version = self._objects.create(path, _content(self.seconds))
            alone.look()
            if version and alone.is_free:
                return _Renewal(self._objects, path, self.seconds, version)
            self._objects.delete([path])
            while not alone.is_free:
                time.sleep(_LOOK)
                patience.waits(alone.look())

    def _dead(self, paths: list[str]) -> list[str]:
        """Returns `paths` if none of them is renewed. Raises BlockingIOError as soon as one is."""
        watches = [_Watch(self._objects, path) for path in paths]
        while True:
            for watch in watches:
                if not watch.is_free and (holder := watch.look()) and watch.is_alive:
                    raise BlockingIOError(f"{holder} is active")
            if all(watch.is_free for watch in watches):
                return paths
            time.sleep(_LOOK)


class _Watch:
    """Polls a lease to determine whether it is renewed."""

    def __init__(self, objects: Objects, path: str) -> None:
        self._objects, self._path = objects, path
        self._since, self.version, self.lasts = 0.0, "", 0.0
        self.is_free = False
        """Whether it is free, or its holder is dead."""
        self.is_alive = False
        """Whether it has been renewed since the first check."""

    def look(self) -> str:
        """The holder, if there is one."""
        found = self._objects.read(self._path)
        facts = json.loads(found[0]) if found else {}
        version = found[1] if found else ""
        if version != self.version:
            self.is_alive = bool(self.version and facts)
            self.version, self._since = version, time.monotonic()

        self.lasts = facts.get("seconds", 0.0)
        self.is_free = not facts or time.monotonic() - self._since > self.lasts
        return facts.get("holder", "")


class _Renewal:
    """Renews a lease in a thread until `end` is called."""

    def __init__(self, objects: Objects, path: str, seconds: float, version: str) -> None:
        self._objects, self.path, self._seconds = objects, path, seconds
        self.version: str | None = version
        """The version of the lease; None after another process has taken it over."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease {path}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stops renewing it."""
        self._ended.set()
        self._thread.join()

    def _renew(self) -> None:
        while self.version and not self._ended.wait(self._seconds / 4):
            try:
                self.version = self._objects.swap(self.path, _content(self._seconds), self.version)
            except TransientError as error:  # if the server does not answer for too long, another process takes over
                warn_once(f"{self.path} could not be renewed: {error}")
        if not self.version:
            warn_once(f"{self.path}: another process took it over, because it was not renewed for {self._seconds:g} s")


def _path(name: str) -> str:
    return f"leases/{name}.json"


def _content(seconds: float) -> bytes:
    """A unique value, so that the version changes with each renewal."""
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    return json.dumps({"holder": holder, "seconds": seconds, "id": uuid.uuid4().hex}).encode()
