"""The error classes of darec. Each error says what is wrong, where, and how to fix it."""

from darec.common.printable import printable
from schemas.secret import redacted


class DarecError(Exception):
    """A failure of darec or of its machine. The command line exits with 1.

    The message may contain untrusted text: passwords in URLs are removed, and control characters are escaped.
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
    """An error that the user can fix: data, configuration, prompt, missing model. The command line exits with 2."""

    exit_code = 2


class UnknownIdError(UserError):
    """A user or an item that the release does not contain, or an item whose vector is 0."""


class LimitError(DarecError):
    """A limit of the recipe for one run was reached. Nothing failed, and the next run continues from there. The command
    line exits with 130, as after Ctrl-C.
    """

    exit_code = 130


class TransientError(DarecError):
    """A transient error (an unreachable server, a full queue), which the orchestrator retries."""
