"""How a long step tells its caller how far it is, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """One bar at a time: `start` opens it, `advance` moves it, the next `start` or the step's end closes it."""

    def start(self, label: str, total: int, unit: str = "rows") -> None: ...

    def advance(self, count: int = 1, note: str = "") -> None: ...


class Silent:
    """The listener of tests and notebooks."""

    def start(self, label: str, total: int, unit: str = "rows") -> None:
        pass

    def advance(self, count: int = 1, note: str = "") -> None:
        pass
