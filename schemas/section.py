"""The base of every configuration section, and which of its fields are part of an artifact's key."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Unknown keys are refused; the string under a field is its description in `darec config schema`."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def not_hashed(default: Any, **constraints: Any) -> Any:
    """A field that cannot change a result (a device, a batch of work, a folder): it stays out of the key."""
    return Field(default, json_schema_extra={"runtime": True}, **constraints)


def is_not_hashed(section: type[BaseModel], name: str) -> bool:
    """Whether field `name` of `section` was declared with `not_hashed`."""
    extra = section.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("runtime"))


def hashed(value: Any) -> Any:
    """`value` as plain JSON data with every runtime field left out, nested sections included."""
    if isinstance(value, BaseModel):
        kind = type(value)
        return {name: hashed(getattr(value, name)) for name in kind.model_fields if not is_not_hashed(kind, name)}
    if isinstance(value, dict):
        return {str(key): hashed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [hashed(item) for item in value]
    return value
