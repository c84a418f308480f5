"""Which files a data set is made of: all that a plan needs to know of raw data, so no table library is loaded here."""

from pathlib import Path

from darec.common.errors import UserError
from schemas.data import DataConfig

ORIGINAL = {"interactions": "u.data", "items": "u.item", "users": "u.user"}
ATOMIC = {"interactions": "ml-100k.inter", "items": "ml-100k.item", "users": "ml-100k.user"}


def source_files(config: DataConfig) -> dict[str, Path]:
    """The source's files by role (interactions, items, users); roles that are not given are left out.

    Raises:
        UserError: a file is missing, is a folder, or cannot be opened.
    """
    if config.source == "movielens-100k":
        paths = movielens_files(config.folder)
    else:
        given = {"interactions": config.interactions, "items": config.items, "users": config.users}
        paths = {role: path for role, path in given.items() if path is not None}
    return {role: check_file(path, role) for role, path in paths.items()}


def movielens_files(folder: Path) -> dict[str, Path]:
    """MovieLens-100K's files by role, of the layout that `folder` holds. Raises UserError if it holds neither whole."""
    for layout in (ORIGINAL, ATOMIC):
        paths = {role: folder / name for role, name in layout.items()}
        if all(path.is_file() for path in paths.values()):
            return paths
    wanted = " or ".join(", ".join(layout.values()) for layout in (ORIGINAL, ATOMIC))
    raise UserError(f"MovieLens-100K ({wanted}) is not there", where=str(folder), hint="run `darec data fetch ml-100k`")


def check_file(path: Path, role: str) -> Path:
    """`path`, if it is a readable file. Raises UserError otherwise."""
    if path.is_dir():
        raise UserError("this is a folder, not a file", where=str(path), hint=f"name the {role} file itself")
    try:
        path.open("rb").close()
    except FileNotFoundError as error:
        raise UserError(f"the {role} file does not exist", where=str(path), hint=f"correct data.{role}") from error
    except OSError as error:
        raise UserError(
            f"the {role} file cannot be opened ({error.strerror})",
            where=str(path),
            hint="make it readable for this user",
        ) from error
    return path
