"""The interface by which a long step reports its progress."""

from typing import Protocol


class Progress(Protocol):
    """Shows one bar at a time: `start` opens it, `advance` moves it, and the next `start` or the end of the step closes
    it."""

    def start(self, label: str, total: int, unit: str = "rows") -> None:
        """Opens a bar of `total` units."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Moves the bar. `note` is shown next to it."""


class Silent:
    """Shows nothing; for tests and notebooks."""

    def start(self, label: str, total: int, unit: str = "rows") -> None:
        """Does nothing."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Does nothing."""
