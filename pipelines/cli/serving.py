"""Opens the current release for commands that query it."""

from pathlib import Path
from typing import TYPE_CHECKING

from darec.serving.releases import Releases

if TYPE_CHECKING:
    from darec.serving.bundle import Bundle


def current_bundle(store: Path) -> "Bundle":
    """The bundle of the current release. Raises UserError if nothing has been published."""
    from darec.serving.bundle import Bundle

    return Bundle.open(Releases(store).serving())
