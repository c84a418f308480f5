"""The override language of `--set`, of benchmarks and of searches.

An override is a dotted path and a value: `train.alignment.0.weight=0.3`. A step into a list is a number; the number
after the last entry appends a whole one: `train.alignment.1={name: kar}`. A path through a field that is not set starts
from the field's default.

A table that overrides a section sets the given fields and keeps the others, unless it changes the `name` (or `kind`)
that selects the section's class: then it replaces the section. Any other value, including a list or a table of free
keys, replaces the previous value.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from darec.common.errors import UserError
from darec.common.section_types import entry_type, field_type, section_of
from darec.common.strict_yaml import DEEPEST, StrictYAMLError, parse
from schemas.bench import Overrides


def parse_settings(settings: Sequence[str]) -> list[Overrides]:
    """`path=value` texts as overrides; each value is read as YAML.

    Raises:
        UserError: a text that is not an override, or whose value is not YAML.
    """
    return [dict([_parse(setting)]) for setting in settings]


def _parse(setting: str) -> tuple[str, Any]:
    path, equals, text = setting.partition("=")
    steps = path.strip().split(".")
    if not equals or len(steps) > DEEPEST or not all(steps):
        raise UserError(f"{setting[:80]!r} is not an override", where="--set", hint="write --set section.field=value")

    try:
        return path.strip(), parse(text)
    except StrictYAMLError as error:
        what = f"the value of {path.strip()!r} is not valid YAML: {str(error).removeprefix('line 1: ')}"
        raise UserError(what, where="--set", hint="put it in quotes, inside those of the shell") from error


def overlay(kind: type[BaseModel], values: Mapping[str, Any], *layers: Overrides, where: str) -> dict[str, Any]:
    """The fields `values` of a `kind` with `layers` of overrides applied in turn; the arguments are not modified.

    Raises:
        UserError: a path into a value that is neither a section nor a list, or beyond the end of a list.
    """
    result: Any = dict(values)
    for layer in layers:
        for path, value in layer.items():
            result = _set(result, path.split("."), value, kind, _Place("", where))
    return result


class _Place:
    """The part of a path that has been followed, for messages."""

    def __init__(self, path: str, where: str) -> None:
        self.path, self.where = path, where

    def __truediv__(self, step: str) -> "_Place":
        return _Place(f"{self.path}.{step}" if self.path else step, self.where)

    def error(self, problem: str, hint: str) -> UserError:
        """The error for the value at this place."""
        return UserError(f"{self.path!r} {problem}", where=self.where, hint=hint)


def _set(there: Any, steps: list[str], value: Any, annotation: Any, place: _Place) -> Any:
    """The value `there` with `value` set at the path `steps` below it; `annotation` is the type of `there`."""
    if not steps:
        return _laid_over(there, value, annotation, place)

    if isinstance(there, list | tuple):
        step, rest, count = steps[0], steps[1:], len(there)
        appended = step == str(count) and rest in ([], ["name"])
        if not appended and not (step.isdecimal() and int(step) < count):
            entries = "entry 0" if count == 1 else f"an entry from 0 to {count - 1}"
            known = f"change {entries}, or " if count else ""
            hint = f"{known}append a whole entry as {place.path}.{count}={{name: ...}}"
            raise place.error(f"is a list of {count}: it has no entry {step!r}", hint)
        index = int(step)
        before = {} if appended and rest else None if appended else there[index]
        return [*there[:index], _set(before, rest, value, entry_type(annotation), place / step), *there[index + 1 :]]

    if not isinstance(there, dict):
        raise place.error("is not a section", "see `darec config show`")

    section, tag = section_of(annotation, there)
    if steps == [tag] and there.get(tag) != value:
        return {tag: value}

    length = _key_length(there, steps)
    key, rest = ".".join(steps[:length]), steps[length:]
    before = there[key] if key in there else _default(section, key)
    before = {} if before is None and rest else before
    return there | {key: _set(before, rest, value, field_type(section, annotation, key), place / key)}


def _laid_over(there: Any, value: Any, annotation: Any, place: _Place) -> Any:
    if not isinstance(value, dict) or not isinstance(there, dict):
        return value
    section, tag = section_of(annotation, there)
    if section is None or (tag and value.get(tag, there.get(tag)) != there.get(tag)):
        return value
    for key, each in value.items():
        there = _set(there, key.split("."), each, annotation, place)
    return there


def _key_length(there: Mapping[str, Any], steps: list[str]) -> int:
    """The number of steps that form the next key: free keys may contain dots, such as `train.learning_rate` in a search
    space.
    """
    known = (length for length in range(len(steps), 1, -1) if ".".join(steps[:length]) in there)
    return next(known, 1)


def _default(section: type[BaseModel] | None, key: str) -> Any:
    """The default of a section's field as plain values; None if it has no default."""
    if section is None or key not in section.model_fields or section.model_fields[key].is_required():
        return None

    default, (kind, tag) = section.model_fields[key].get_default(call_default_factory=True), (None, None)
    if isinstance(default, BaseModel):
        kind, tag = section_of(section.model_fields[key].annotation, default.model_dump(mode="json"))
    # The other fields stay unset: some defaults depend on whether a field was given.
    return {} if kind and not tag and default == kind() else to_jsonable_python(default)
