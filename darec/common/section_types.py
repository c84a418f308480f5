"""Resolves plain values by the type hints of a section: the class of a table, and values of the wrong type."""

import json
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

_SCALARS = {bool: "a valid boolean", int: "a valid integer", float: "a valid number"}
_FITTING = {bool: (bool,), int: (int, float), float: (float,), str: ()}
"""The type of a value, and the scalar field types that accept it."""


def mismatches(value: Any, annotation: Any, path: str = "") -> Iterator[str]:
    """One line for each boolean, number or text in a field of another type.

    Pydantic would convert true to 1, "8" to 8 and 5.0 to 5. Its strict mode refuses these, but also a list for a tuple
    and a text for a path, and YAML and TOML have no other types for them.
    """
    if isinstance(value, dict):
        section, _ = section_of(annotation, value)
        for key, each in value.items():
            yield from mismatches(each, field_type(section, annotation, key), f"{path}.{key}" if path else key)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from mismatches(each, entry_type(annotation), f"{path}.{number}")
    elif type(value) in _FITTING:
        kinds = [kind for kind in alternatives(annotation) if kind is not types.NoneType]
        only_scalars = all(kind in _SCALARS for kind in kinds)
        if kinds and only_scalars and not any(kind in kinds for kind in _FITTING[type(value)]):
            expected = " or ".join(_SCALARS[kind] for kind in kinds)
            yield f"{path}: Input should be {expected} (given: {json.dumps(value, ensure_ascii=False)[:60]})"


def section_of(annotation: Any, value: Mapping[str, Any]) -> tuple[type[BaseModel] | None, str | None]:
    """The section class of a table of the type `annotation`, and the field that selects it among several, if any."""
    kinds = [kind for kind in alternatives(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    if len(kinds) == 1:
        return kinds[0], None
    for kind in kinds:
        for name, field in kind.model_fields.items():
            if get_origin(field.annotation) is Literal and get_args(field.annotation) == (value.get(name),):
                return kind, name
    return None, None


def field_type(section: type[BaseModel] | None, annotation: Any, key: str) -> Any:
    """The type of the field `key` of a section, or of the entries of a table of free keys; None if it is unknown."""
    if section is not None:
        return section.model_fields[key].annotation if key in section.model_fields else None
    return entry_type(annotation)


def entry_type(annotation: Any) -> Any:
    """The type of the entries of a list, a tuple of any length, or a table of free keys; None for anything else."""
    for kind in alternatives(annotation):
        if get_origin(kind) in (list, tuple, dict):
            return get_args(kind)[1 if get_origin(kind) is dict else 0]
    return None


def alternatives(annotation: Any) -> list[Any]:
    """The types that a value of `annotation` may have, without `Annotated` and unions."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for each in get_args(annotation) for kind in alternatives(each)]
    return [annotation]
