"""Reading a recipe: YAML or TOML, `section.field=value` overrides, and errors that name the nearest known key."""

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from darec.common.errors import UserError
from darec.common.files import read_text
from schemas.recipe import Recipe
from schemas.secret import is_hidden

Model = TypeVar("Model", bound=BaseModel)


def load_recipe(path: Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path` (all defaults if None) with `overrides` laid over it. Raises UserError as `load`."""
    return load(Recipe, path, overrides)


def load(kind: type[Model], path: Path | None, overrides: Sequence[str] = ()) -> Model:
    """A recipe of any kind from a YAML or TOML file.

    Raises:
        UserError: naming file, field, and the nearest known name or the reason.
    """
    values = {} if path is None else _read(path, kind)
    for override in overrides:
        _apply(values, override)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise explain(error, str(path or "--set"), kind) from error


def _read(path: Path, kind: type[BaseModel]) -> dict[str, Any]:
    text = read_text(path, "the recipe", hint="see configs/ for recipes")
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"the recipe is not valid: {_fault(error)}", where=str(path), hint="fix that line") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(
            "the recipe is not a table of sections", where=str(path), hint=f"use {', '.join(kind.model_fields)}"
        )
    return values


def _fault(error: Exception) -> str:
    """What is wrong and where, without the lines of the file that YAML quotes: they may hold a password."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} at line {mark.line + 1}, column {mark.column + 1}"
    return str(error)


def _apply(values: dict[str, Any], override: str) -> None:
    """Sets `section.field=value` in `values`; the value is read as YAML."""
    name, equals, text = override.partition("=")
    *sections, field = name.strip().split(".")
    if not equals or not sections or not all([*sections, field]):
        raise UserError(f"{override!r} is not an override", where="--set", hint="write --set section.field=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"the value of {name!r} is not valid YAML", where="--set", hint="quote it") from error
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"{section!r} in {name!r} is not a section", where="--set", hint="see `darec config show`")
    values[field] = value


def explain(error: ValidationError, where: str, kind: type[BaseModel]) -> UserError:
    """The error that names field and reason of each problem with a `kind`, and the nearest known key."""
    problems = error.errors(include_url=False)
    lines = "; ".join(_describe(problem, kind) for problem in problems[:5])
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return UserError(f"{lines}{more}", where=where, hint="see `darec config schema`")


def _describe(problem: ErrorDetails, kind: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if is_hidden(problem["type"]):
        return f"{place}: {problem['msg']}"
    if problem["type"] != "extra_forbidden":
        return f"{place}: {problem['msg']} (given: {str(problem['input'])[:60]!r})"
    known = sorted(_known_fields(problem["loc"][:-1], kind))
    nearest = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}"
    return f"{place}: unknown key, {hint}"


def _known_fields(location: tuple[int | str, ...], kind: type[BaseModel]) -> set[str]:
    """The field names that may stand at `location`; steps through unions and lists by their models."""
    models: set[type[BaseModel]] = {kind}
    for step in location:
        annotations = [model.model_fields[str(step)].annotation for model in models if str(step) in model.model_fields]
        if annotations:
            models = {found for annotation in annotations for found in _models_in(annotation)}
        elif tagged := {model for model in models if _tag(model) == step}:
            models = tagged
    return {name for model in models for name in model.model_fields}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _tag(model: type[BaseModel]) -> Any:
    return model.model_fields["name"].default if "name" in model.model_fields else None
