"""One small adapter for each layout of source data, all giving the same three raw tables."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from darec.dataset import movielens
from darec.dataset.raw import (
    RawTable,
    as_text,
    attribute_list,
    require_columns,
    scan_atomic,
    scan_delimited,
    scan_parquet,
)
from darec.dataset.sources import source_files
from schemas import columns as c
from schemas.data import DataConfig, ItemColumns, UserColumns


@dataclass(frozen=True)
class RawData:
    """The source as it is: nothing cleaned, nothing dropped."""

    interactions: RawTable
    items: RawTable | None
    users: RawTable | None


def read_source(config: DataConfig) -> RawData:
    """Opens the source named by `config`; rows are read when the tables are cleaned.

    Raises:
        UserError: a file is missing or damaged, or lacks a mapped column.
    """
    paths = source_files(config)
    if config.source == "movielens-100k":
        return RawData(*movielens.read(paths))
    return RawData(
        interactions=_interactions(paths["interactions"], config),
        items=_items(paths["items"], config) if "items" in paths else None,
        users=_users(paths["users"], config) if "users" in paths else None,
    )


def _open(path: Path, config: DataConfig) -> pl.LazyFrame:
    match config.source:
        case "csv":
            return scan_delimited(path, ",", config.encoding)
        case "tsv":
            return scan_delimited(path, "\t", config.encoding)
        case "recbole":
            return scan_atomic(path, config.encoding)
        case _:
            return scan_parquet(path)


def _interactions(path: Path, config: DataConfig) -> RawTable:
    rows, columns = _open(path, config), config.interaction_columns
    fields = {"user": c.USER, "item": c.ITEM, "rating": c.RATING, "timestamp": c.TIMESTAMP, "split": c.SPLIT}
    mapped = {field: name for field in fields if (name := getattr(columns, field)) is not None}
    require_columns(rows, mapped, path, "interaction_columns")
    names = {fields[field]: name for field, name in mapped.items()}
    return RawTable(rows.select(pl.col(name).alias(column) for column, name in names.items()), path, names)


def _items(path: Path, config: DataConfig) -> RawTable:
    rows, columns = _open(path, config), config.item_columns
    fields = {"item": c.ITEM, "title": c.TITLE, "description": c.DESCRIPTION}
    mapped = {field: name for field in fields if (name := getattr(columns, field)) is not None}
    require_columns(rows, mapped, path, "item_columns")
    names = {fields[field]: name for field, name in mapped.items()}
    attributes = _attribute_columns(rows, columns, set(names.values()), path, "item_columns")
    nothing = pl.lit(None, pl.String)
    title, description = (
        (as_text(rows, names[field]) if field in names else nothing).alias(field) for field in (c.TITLE, c.DESCRIPTION)
    )
    return RawTable(
        rows.select(pl.col(columns.item).alias(c.ITEM), title, description, attribute_list(rows, attributes)),
        path,
        names,
    )


def _users(path: Path, config: DataConfig) -> RawTable:
    rows, columns = _open(path, config), config.user_columns
    require_columns(rows, {"user": columns.user}, path, "user_columns")
    attributes = _attribute_columns(rows, columns, {columns.user}, path, "user_columns")
    return RawTable(
        rows.select(pl.col(columns.user).alias(c.USER), attribute_list(rows, attributes)), path, {c.USER: columns.user}
    )


def _attribute_columns(
    rows: pl.LazyFrame, columns: ItemColumns | UserColumns, taken: set[str], path: Path, section: str
) -> list[str]:
    """The columns that become attributes: those that are named, or else all that are not `taken`."""
    if columns.attributes is None:
        return [name for name in rows.collect_schema().names() if name not in taken]
    for name in columns.attributes:
        require_columns(rows, {"attributes": name}, path, section)
    return list(columns.attributes)
