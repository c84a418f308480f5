"""The kinds of failure darec knows, each saying what is wrong, where, and how to fix it."""

from darec.common.printable import printable
from schemas.secret import redacted


class DarecError(Exception):
    """A failure of darec or of its machine. The command line exits with 1.

    Its words may come from outside: passwords of addresses are left out, and control characters are shown as escapes.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = redacted(what), redacted(where), redacted(hint)
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f" [{self.where}]" if self.where else ""
        remedy = f" -> {self.hint}" if self.hint else ""
        return printable(" ".join(f"{self.what}{place}{remedy}".split()))


class UserError(DarecError):
    """Something only the user can fix: data, configuration, prompt, missing model. Exits with 2."""

    exit_code = 2


class LimitError(DarecError):
    """A limit that the recipe sets for one run was reached: nothing failed, and the next run continues from there.

    The command line exits with 130, as after Ctrl-C.
    """

    exit_code = 130


class TransientError(DarecError):
    """A failure that may pass by itself (a server away, a full queue): the orchestrator may retry it."""
