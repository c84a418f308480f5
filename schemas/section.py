"""The base of every configuration section, and which of its fields are part of an artifact's key."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Section(BaseModel):
    """Base class of configuration sections. Unknown keys are refused. The docstring of a field is its description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _without_nul(cls, value: Any) -> Any:
        """Refuses NUL, which ends a string for the operating system and most libraries."""
        if isinstance(value, str | Path) and "\0" in str(value):
            raise ValueError("text must not contain the character NUL")
        return value


def not_hashed(default: Any, **constraints: Any) -> Any:
    """A field that cannot change a result (a device, a batch size, a folder) and is not part of the key."""
    return Field(default, json_schema_extra={"not_hashed": True}, **constraints)


def added(default: Any, *, before: Any = None, **constraints: Any) -> Any:
    """A field added after version 0.1. It is part of the key only if its value differs from `before`: the behaviour
    before the field existed, by default `default`. Earlier artifacts therefore stay hits.
    """
    return Field(default, json_schema_extra={"added": True, "before": before}, **constraints)


def alike(default: Any, **same: str) -> Any:
    """A field that has equivalent values: with `ray="offline"`, the key contains `offline` for the value `ray`."""
    return Field(default, json_schema_extra={"alike": {**same}})


def is_not_hashed(section: type[BaseModel], name: str) -> bool:
    """Whether field `name` of `section` was declared with `not_hashed`."""
    return bool(_marked(section, name, "not_hashed"))


def hashed(value: Any) -> Any:
    """`value` as plain JSON data for a key, nested sections included.

    Fields declared with `not_hashed` are left out, and so are fields declared with `added` whose value is the behaviour
    before they existed.
    Values declared `alike` are replaced by their common value.
    """
    if isinstance(value, BaseModel):
        section = type(value)
        return {name: hashed(_as_alike(value, name)) for name in section.model_fields if _in_key(value, name)}
    if isinstance(value, dict):
        return {str(key): hashed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hashed(item) for item in value]
    return value


def _in_key(section: BaseModel, name: str) -> bool:
    kind = type(section)
    if _marked(kind, name, "added"):
        before, default = _marked(kind, name, "before"), kind.model_fields[name].get_default(call_default_factory=True)
        return getattr(section, name) != (default if before is None else before)
    return not is_not_hashed(kind, name)


def _as_alike(section: BaseModel, name: str) -> Any:
    """The value of a field, or the value that it was declared `alike` to."""
    value, extra = getattr(section, name), type(section).model_fields[name].json_schema_extra
    same: Any = extra.get("alike", {}) if isinstance(extra, dict) else {}
    return same.get(value, value) if same else value


def _marked(section: type[BaseModel], name: str, mark: str) -> Any:
    extra = section.model_fields[name].json_schema_extra
    return extra.get(mark) if isinstance(extra, dict) else None
