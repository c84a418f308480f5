"""Reading a recipe: a YAML or TOML file, overrides, and errors that name field, value and reason."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from darec.common.errors import UserError
from darec.common.files import read_text
from darec.common.overrides import overlay, parse_settings
from darec.common.section_types import mismatches
from darec.common.strict_yaml import DEEPEST, parse
from schemas.bench import BenchRecipe, Overrides, TuneRecipe
from schemas.recipe import Recipe, resolve_auto
from schemas.secret import is_hidden

Model = TypeVar("Model", bound=BaseModel)

_LARGEST = 2**17  # maximum size of a recipe file; this much YAML takes a second to parse

_PLAIN = {
    "model_type": "Input should be a table of fields",
    "model_attributes_type": "Input should be a table of fields",
    "dict_type": "Input should be a table",
    "tuple_type": "Input should be a list",
    "float_parsing": "Input should be a valid number",
    "int_parsing": "Input should be a valid integer",
    "path_type": "Input should be a path",
}
"""Pydantic's names for what a value should be, in the words of YAML and TOML."""

_FORM = re.compile(r"(str|int|float|bool|constrained-\w+|(literal|tuple|function-\w+|lax-or-strict)\[.*\])$")
"""The last step of Pydantic's location of a value that may have one of several types."""


def load_recipe(path: Path | None, settings: Sequence[str] = ()) -> Recipe:
    """Reads the recipe in `path` and applies the overrides `settings`.

    Args:
        path: a YAML or TOML file; None means all defaults.
        settings: overrides such as `train.epochs=50`.

    Raises:
        UserError: naming file, field, and the nearest known name or the reason.
    """
    return load(Recipe, path, settings)


def load(kind: type[Model], path: Path | None, settings: Sequence[str] = ()) -> Model:
    """A recipe of any kind from a YAML or TOML file, with `path=value` overrides.

    Raises:
        UserError: naming file, field, and the nearest known name or the reason.
    """
    values = {} if path is None else _read(path, kind)
    return _validated(kind, overlay(kind, values, *parse_settings(settings), where="--set"), str(path or "--set"))


def configure(kind: type[Model], *layers: Overrides, where: str) -> Model:
    """The default `kind` with `layers` of overrides applied in turn.

    Raises:
        UserError: an unknown path, or values that are not valid; the message names `where`.
    """
    return _validated(kind, overlay(kind, {}, *layers, where=where), where)


def _validated(kind: type[Model], values: Mapping[str, Any], where: str) -> Model:
    if issubclass(kind, Recipe):
        values = resolve_auto(values)
    if wrong := list(mismatches(values, kind)):
        raise UserError(_joined(wrong), where=where, hint=_fields_of(kind))
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise explain(error, where, kind) from error


def _read(path: Path, kind: type[BaseModel]) -> dict[str, Any]:
    text = read_text(path, "the recipe", hint="see configs/ for recipes", limit=_LARGEST)
    try:
        values = _parse_toml(text) if path.suffix == ".toml" else parse(text)
        too_deep = _depth(values) > DEEPEST
    except RecursionError:
        values, too_deep = {}, True
    except ValueError as error:
        raise UserError(
            f"the recipe is not valid: {error}", where=str(path), hint="correct the line it names"
        ) from error

    if too_deep:
        raise UserError(f"the recipe is nested more than {DEEPEST} deep", where=str(path), hint="see configs/")
    if values is None:
        return {}
    if not isinstance(values, dict):
        hint = f"use {', '.join(kind.model_fields)}"
        raise UserError("the recipe is not a table of sections", where=str(path), hint=hint)

    return values


def _parse_toml(text: str) -> dict[str, Any]:
    """Dates are texts, as in YAML."""
    return json.loads(json.dumps(tomllib.loads(text), default=str))


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def explain(error: ValidationError, where: str, kind: type[BaseModel]) -> UserError:
    """The error that names field, value and reason of each problem with a `kind`, and the nearest known key."""
    lines = [_describe(problem, kind) for problem in _merged(error.errors(include_url=False))]
    return UserError(_joined(lines), where=where, hint=_fields_of(kind))


def _fields_of(kind: type[BaseModel]) -> str:
    """Where the fields of a recipe of this kind are described."""
    if kind in (BenchRecipe, TuneRecipe):
        return f"see {kind.__name__} in schemas/bench.py and the recipes in configs/"
    return "see `darec config schema`"


def _merged(problems: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """The problems, with those of a value that may have one of several types, such as a number or `auto`, as one."""
    merged: dict[Any, ErrorDetails] = {}
    for problem in problems:
        place, form = problem["loc"][:-1], str(problem["loc"][-1]) if problem["loc"] else ""
        if not _FORM.match(form) or problem["type"] == "extra_forbidden":
            merged[len(merged)] = problem
        elif before := merged.get(place):
            before["msg"] += f" or {_reason(problem).removeprefix('Input should be ')}"
        else:
            merged[place] = {**problem, "loc": place, "msg": _reason(problem), "type": "value_error"}
    return list(merged.values())


def _reason(problem: ErrorDetails) -> str:
    return _PLAIN.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")


def _joined(lines: Sequence[str]) -> str:
    return "; ".join([*lines[:5], *([f"and {len(lines) - 5} more"] if len(lines) > 5 else [])])


def _describe(problem: ErrorDetails, kind: type[BaseModel]) -> str:
    steps, known, names = _follow(problem["loc"], kind)
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):  # the section's name or kind, which selects it
        context = problem.get("ctx", {})
        steps.append(context["discriminator"].strip("'"))
        given = f"given: {_shown(context['tag'])}" if "tag" in context else "not given"
        return f"{'.'.join(steps)}: Input should be one of {', '.join(names)} ({given})"

    place = f"{'.'.join(steps)}: " if steps else ""
    if problem["type"] == "extra_forbidden":
        if (section := steps[-1].partition(".")[0]) in known:
            return f"{place}unknown key, a path with dots is for --set: write the field under {section!r}"
        nearest = difflib.get_close_matches(steps[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
        return f"{place}unknown key, {hint}"

    value, reason = problem["input"], _reason(problem)
    if isinstance(value, dict) or is_hidden(problem["type"]):
        return f"{place}{reason}"
    quoted = ", put it in quotes" if problem["type"] == "string_type" and isinstance(value, bool | int | float) else ""
    return f"{place}{reason}{quoted} (given: {_shown(value)})"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _follow(location: tuple[int | str, ...], kind: type[BaseModel]) -> tuple[list[str], list[str], list[str]]:
    """The path of a problem as written in a recipe, the field names of the section that contains its last step, and the
    names of the sections that the last step may be.

    Pydantic's location also holds the `name` or `kind` of each section that is one of several, and in parentheses the
    form of a value that may have several: they are left out.
    """
    steps, known = [], sorted(kind.model_fields)
    models = [kind]
    for step in location:
        annotations = [model.model_fields[str(step)].annotation for model in models if str(step) in model.model_fields]
        tagged = [model for model in models if len(models) > 1 and _tag(model) == step]
        if tagged:
            models = tagged
            continue
        if str(step).startswith("("):
            continue
        steps.append(str(step))
        known = sorted({name for model in models for name in model.model_fields})
        if annotations:
            models = list(dict.fromkeys(found for annotation in annotations for found in _models_in(annotation)))

    return steps, known, [str(name) for name in map(_tag, models) if name is not None]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _tag(model: type[BaseModel]) -> Any:
    """The name of this kind of section in a recipe, if it is one of several."""
    tags = [get_args(model.model_fields[name].annotation) for name in ("name", "kind") if name in model.model_fields]
    return tags[0][0] if tags and tags[0] else None
