"""Resolves `data.source`. Plans need it, so no table library is imported here."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from darec.common.errors import DarecError, UserError
from darec.common.hashing import digest, file_sha256
from darec.dataset.files import SourceFile, expand
from schemas.data import DataConfig
from schemas.source_names import SOURCES

ROLES = ("interactions", "items", "users")
_KEYED_BY_FILES_ALONE = ("movielens-100k",)  # its layout was part of the code in version 0.1


def resolve(config: DataConfig) -> DataConfig:
    """The configuration with a public data set replaced by its description: its files, their formats and columns.

    Fields that `config` sets take precedence. A configuration of plain files is returned unchanged.

    Raises:
        UserError: the folder has none of the published layouts of the data set.
    """
    if SOURCES[config.source] is None:
        return config

    description = _description(config.source)
    is_default = config.folder == DataConfig.model_fields["folder"].default
    folder = Path(description["folder"]) if is_default else config.folder
    layout = _layout_in(folder, config.source, description)
    own = config.model_dump(exclude_defaults=True, exclude={"source", "folder"})
    if "min_rating" in config.model_fields_set:
        own["min_rating"] = config.min_rating

    try:
        return DataConfig.model_validate(_merged(layout, own))
    except ValidationError as error:
        raise DarecError(f"the description of {config.source} is not valid: {error}", where=config.source) from error


def source_files(config: DataConfig) -> dict[str, list[SourceFile]]:
    """The source's files by role (interactions, items, users); roles that are not given are left out.

    Raises:
        UserError: a file is missing, is no regular file, or cannot be opened.
    """
    config = resolve(config)
    places = {role: getattr(config, role) for role in ROLES}
    return {role: expand(place, role) for role, place in places.items() if place is not None}


def fingerprint(config: DataConfig) -> dict[str, Any]:
    """The part of the source in the key of ingest: the content of each file, and the description of a data set.

    Paths and the order of files are not included; the values of partitions and the parts of a split are.
    """
    found: dict[str, Any] = {"sources": {role: _content(files) for role, files in source_files(config).items()}}
    path = SOURCES[config.source]
    if path is not None and config.source not in _KEYED_BY_FILES_ALONE:
        found["description"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def movielens_files(folder: Path) -> dict[str, Path]:
    """MovieLens-100K's files by role, in the layout of `folder`. Raises UserError if neither layout is complete."""
    files = source_files(DataConfig(source="movielens-100k", folder=folder))
    return {role: files[role][0].path for role in ROLES}


def _content(files: list[SourceFile]) -> str:
    if len(files) == 1 and files[0] == SourceFile(files[0].path):
        return file_sha256(files[0].path)
    return digest(sorted([file_sha256(file.path), file.part or "", list(file.partition)] for file in files))


@cache
def _description(name: str) -> dict[str, Any]:
    path = SOURCES[name]
    assert path is not None
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _layout_in(folder: Path, name: str, description: Mapping[str, Any]) -> dict[str, Any]:
    """The first layout whose files are in `folder`, with names replaced by paths."""
    optional = description.get("optional", ())
    for layout in description["layouts"]:
        found = {role: _find(folder, layout[role]) for role in ROLES if role in layout}
        if all(found[role] is not None or role in optional for role in found):
            return {key: value for key, value in (layout | found).items() if value is not None}

    wanted = " or ".join(
        ", ".join(_listed(layout[role]) for role in ROLES if role in layout and role not in optional)
        for layout in description["layouts"]
    )
    raise UserError(f"{name} ({wanted}) is not there", where=str(folder), hint=description["get"])


def _find(folder: Path, names: str | Mapping[str, str]) -> Any:
    """The paths of a name or glob in a description, in the form of `DataConfig`; None if there are none."""
    if isinstance(names, Mapping):
        found = {part: _find(folder, name) for part, name in names.items()}
        return None if None in found.values() else found
    paths = tuple(str(path) for path in sorted(folder.glob(names)) if path.is_file())
    return paths or None


def _listed(names: str | Mapping[str, str]) -> str:
    return ", ".join(names.values()) if isinstance(names, Mapping) else names


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` merged over `below`, section by section."""
    both = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping) and isinstance(above[key], Mapping):
            both[key] = _merged(below[key], above[key])
    return both
