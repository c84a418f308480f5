"""URLs that may contain a password, which is hidden when they are printed, dumped or logged."""

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Secret
from pydantic_core import PydanticCustomError

HIDDEN = "***"
_ERROR = "secret_url"  # errors of this type are shown without the given value
_USER = re.compile(r"(?<=://)[^\s'\"]*@")
_QUERY = re.compile(r"(?i)(?<=[?&])([\w-]*(?:key|token|secret|password)[\w-]*=)[^\s&'\"]+")


class SecretURL(Secret[str]):
    """An HTTP URL whose text, JSON and repr show no user, password or query value."""

    def _display(self) -> str:
        parts = urlsplit(self.get_secret_value())
        address, at = parts.netloc.rpartition("@")[2], f"{HIDDEN}@" if "@" in parts.netloc else ""
        return f"{parts.scheme}://{at}{address}{parts.path}{f'?{HIDDEN}' if parts.query else ''}"


def redacted(text: str) -> str:
    """`text` without the parts that look like a user, password, key or token of an address."""
    return _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", text)) if "://" in text else text


def is_hidden(error_type: str) -> bool:
    """Whether a validation error of this type is about a value that must not be shown."""
    return error_type == _ERROR


def _checked(value: object) -> object:
    if isinstance(value, SecretURL):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError(_ERROR, "should be the address of a server, as http://HOST:PORT/v1")
    if HIDDEN in value:
        raise PydanticCustomError(_ERROR, "its password was left out where it was printed; write the whole address")

    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False

    if not usable or any(sign.isspace() or not sign.isprintable() for sign in value):
        raise PydanticCustomError(_ERROR, "is not an address of a server; write http://HOST:PORT/v1")
    return value


ServerURL = Annotated[SecretURL, BeforeValidator(_checked)]
"""The address of a server, with or without a password in it."""


def without_password(value: object) -> object:
    """The value itself. Raises an error if it is an address with a password, key or token."""
    if isinstance(value, str) and "://" in value:
        if HIDDEN in value:
            raise PydanticCustomError(_ERROR, "its password was left out where it was printed; leave the @ out, too")
        _, _, password = value.partition("://")[2].rpartition("@")[0].partition(":")
        if password or _QUERY.search(value):
            raise PydanticCustomError(_ERROR, "must not contain a password: set it in an environment variable")
    return value


OpenAddress = Annotated[str, BeforeValidator(without_password)]
"""An address or path for a recipe, which must not contain a password, key or token."""
