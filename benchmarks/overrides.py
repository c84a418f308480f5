"""Overrides: values laid over a configuration, nested or by dotted path (`alignment.0.weight`)."""

import copy
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from darec.common.errors import UserError
from darec.common.recipes import explain
from schemas.bench import Overrides

Model = TypeVar("Model", bound=BaseModel)


def configure(kind: type[Model], *layers: Overrides, where: str) -> Model:
    """The default `kind` with `layers` laid over it in turn. Raises UserError if that is not valid."""
    try:
        return kind.model_validate(merge(*layers, where=where))
    except ValidationError as error:
        raise explain(error, where, kind) from error


def merge(*layers: Overrides, where: str) -> Overrides:
    """`layers` laid over each other in turn. Raises UserError for a path that leads nowhere."""
    values: Any = {}
    try:
        for layer in layers:
            values = overlay(values, layer)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        hint = "a dotted path steps into what an override before it has set, as alignment.0.weight"
        raise UserError(f"an override does not fit ({error!r})", where=where, hint=hint) from error
    return values


def overlay(values: Any, overrides: Overrides) -> Any:
    """`values` with `overrides` laid over it; neither is changed."""
    result = copy.deepcopy(values)
    for path, value in overrides.items():
        *steps, last = path.split(".")
        place = result
        for step in steps:
            place = place[_field(place, step)] if isinstance(place, list) else place.setdefault(step, {})
        field = _field(place, last)
        there = place[field] if isinstance(place, list) else place.get(field)
        place[field] = overlay(there, value) if _merges(there, value) else copy.deepcopy(value)
    return result


def _field(place: Any, step: str) -> Any:
    return int(step) if isinstance(place, list) else step


def _merges(there: Any, value: Any) -> bool:
    """Both are tables, and not of two different kinds."""
    if not isinstance(there, dict) or not isinstance(value, dict):
        return False
    return value.get("name", there.get("name")) == there.get("name")
