"""How a long step tells its caller how far it is, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """One bar at a time: `start` opens it, `advance` moves it, the next `start` or the step's end closes it."""

    def start(self, label: str, total: int, unit: str = "rows") -> None:
        """Opens a bar of `total` units."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Moves the bar; `note` is shown beside it."""


class Silent:
    """The listener of tests and notebooks."""

    def start(self, label: str, total: int, unit: str = "rows") -> None:
        """Hears it and says nothing."""

    def advance(self, count: int = 1, note: str = "") -> None:
        """Hears it and says nothing."""
