"""Libraries of the optional extras (`pip install 'darec[NAME]'`), imported when they are first needed."""

from importlib import import_module
from typing import Any

from darec.common.errors import UserError


def extra(module: str, name: str) -> Any:
    """The module `module`, which the extra `name` of darec installs.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != module.partition(".")[0]:
            raise  # the library is installed, but one of its dependencies is not
        raise UserError(f"the library {error.name} is not installed", hint=f"pip install 'darec[{name}]'") from error
