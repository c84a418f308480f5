"""export: the trained vectors, vocabularies and metrics become a bundle that serves recommendations by itself."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas import columns as c
from schemas.recipe import Recipe
from schemas.release import BUNDLE_FILES, Metrics
from stages.contract import Input, Outcome, Stage, StageContext

if TYPE_CHECKING:
    import polars as pl

    from schemas.tables import TableSchema

_SPLITS = ("train.parquet", "val.parquet", "test.parquet")


def _inputs(recipe: Recipe) -> tuple[Input, ...]:
    return (
        Input("ingest", ("items.parquet",)),
        Input("split", (*_SPLITS, "users.parquet", "items.parquet")),
        Input("train", ("embeddings.safetensors",)),
        Input("evaluate", ("metrics.json",)),
    )


def _config(recipe: Recipe) -> dict[str, Any]:
    return {"export": recipe.export}


def _run(context: StageContext) -> Outcome:
    from darec.serving.bundle import Contents, write_bundle

    users, items = _users(context), _items(context)
    contents = Contents(users, items, _seen(context), _count_misplaced_rows(context, users, items))
    context.progress.start("index", 1, "bundles")
    report = write_bundle(
        context.out, contents, _metrics(context.input("evaluate", "metrics.json")), context.recipe.export
    )
    context.progress.advance()
    return Outcome(rows=report.users.rows + report.items.rows, report=report.model_dump(mode="json"))


def _users(context: StageContext) -> "pl.DataFrame":
    from schemas.tables import USER_VOCABULARY

    return _with_vectors(context, "user", "users.parquet", USER_VOCABULARY, c.USER_INDEX).select(
        c.USER, c.TRAIN_COUNT, c.VECTOR
    )


def _items(context: StageContext) -> "pl.DataFrame":
    """The item vocabulary with its titles; an item that has none is shown by its id."""
    import polars as pl

    from darec.artifacts.tables import read_table
    from schemas.tables import ITEM_VOCABULARY, ITEMS

    titles = read_table(context.input("ingest", "items.parquet"), ITEMS).select(c.ITEM, c.TITLE)
    items = _with_vectors(context, "item", "items.parquet", ITEM_VOCABULARY, c.ITEM_INDEX)
    titled = items.join(titles, on=c.ITEM, how="left", maintain_order="left")
    return titled.select(c.ITEM, pl.coalesce(c.TITLE, c.ITEM).alias(c.TITLE), c.TRAIN_COUNT, c.VECTOR)


def _with_vectors(context: StageContext, side: str, file: str, schema: Any, number: str) -> "pl.DataFrame":
    """A vocabulary in index order, with each row's train interactions and vector."""
    import polars as pl

    from darec.artifacts.tables import read_table
    from schemas.tables import SPLIT_PART

    vocabulary = read_table(context.input("split", file), schema).sort(number)
    vectors = _vectors(context.input("train", "embeddings.safetensors"), side, vocabulary.height)
    train = read_table(context.input("split", "train.parquet"), SPLIT_PART)
    counts = train.group_by(number).agg(pl.len().cast(pl.Int32).alias(c.TRAIN_COUNT))
    counted = vocabulary.join(counts, on=number, how="left", maintain_order="left").with_columns(
        pl.col(c.TRAIN_COUNT).fill_null(0)
    )
    width = vectors.shape[1]
    return counted.with_columns(pl.Series(c.VECTOR, vectors, dtype=pl.Array(pl.Float32, width)))


def _vectors(path: Path, side: str, rows: int) -> Any:
    """One side's final representations [rows, width], float32. Raises DarecError if they don't fit the vocabulary."""
    from safetensors.numpy import load_file

    from darec.common.errors import DarecError

    vectors = load_file(path)[side]
    if vectors.ndim != 2 or len(vectors) != rows:
        what = f"{side} vectors have shape {vectors.shape}, the vocabulary has {rows} rows"
        raise DarecError(what, where=str(path), hint="run train again with --force")
    return vectors.astype("float32", copy=False)


def _count_misplaced_rows(context: StageContext, users: "pl.DataFrame", items: "pl.DataFrame") -> int:
    """Rows whose vector is not, bit for bit, the trained one of their external id.

    Asked of the finished tables and the inputs alone, so that a row moved anywhere in between is found.
    """
    from schemas.tables import ITEM_VOCABULARY, USER_VOCABULARY

    return _mismatched(context, users, "user", USER_VOCABULARY) + _mismatched(context, items, "item", ITEM_VOCABULARY)


def _mismatched(context: StageContext, table: "pl.DataFrame", side: str, schema: "TableSchema") -> int:
    import numpy as np
    from safetensors.numpy import load_file

    from darec.artifacts.tables import read_table
    from darec.serving.bundle import vectors_of

    number, name = schema
    vocabulary = read_table(context.input("split", f"{side}s.parquet"), schema).unique(name, keep="first")
    numbers = table.select(name).join(vocabulary, on=name, how="left", maintain_order="left")[number]
    trained = load_file(context.input("train", "embeddings.safetensors"))[side].astype("float32", copy=False)
    same = vectors_of(table).view(np.uint32) == trained[numbers.fill_null(0).to_numpy()].view(np.uint32)
    return int((~same.all(1) | numbers.is_null().to_numpy()).sum())


def _seen(context: StageContext) -> "pl.DataFrame":
    import polars as pl

    from darec.artifacts.tables import read_table
    from schemas.tables import SPLIT_PART

    parts = [read_table(context.input("split", part), SPLIT_PART) for part in _SPLITS]
    return pl.concat(parts).select(c.USER_INDEX, c.ITEM_INDEX).unique()


def _metrics(path: Path) -> Metrics:
    """The test metrics of the trained model, by name such as `recall@20`."""
    return json.loads(path.read_text())["test"]


STAGE = Stage(
    name="export",
    version=2,
    outputs=BUNDLE_FILES,
    inputs=_inputs,
    config=_config,
    run=_run,
)
