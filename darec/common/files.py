"""Files that a user names."""

from pathlib import Path

from darec.common.errors import UserError


def read_text(path: Path, name: str, *, absent: str, if_absent: str, if_unreadable: str) -> str:
    """The text of a UTF-8 file.

    Args:
        path: the file.
        name: what it is, for the message if it is there and cannot be read.
        absent: the message if it is not there.
        if_absent: how to fix that.
        if_unreadable: how to fix a file that cannot be read.

    Raises:
        UserError: it is not there, may not be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(absent, where=str(path), hint=if_absent) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name} cannot be read ({error})", where=str(path), hint=if_unreadable) from error
