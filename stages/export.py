"""export: writes a self-contained bundle of trained vectors, vocabularies and metrics."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from darec.artifacts.files import (
    ALL_DISLIKES,
    EMBEDDINGS,
    ITEM_VOCABULARY,
    ITEMS,
    METRICS,
    REFIT_EMBEDDINGS,
    RERANKER,
    TEST_PART,
    TRAIN_PART,
    USER_VOCABULARY,
    VAL_PART,
    File,
)
from darec.common.errors import DarecError
from darec.dataset.attributes import attribute_values
from darec.serving.bundle import Contents, vectors_of, write_bundle
from schemas import columns as c
from schemas.release import BundleReport
from schemas.reports import ExportReport
from stages.contract import Outcome, StageContext
from stages.train import chosen_settings


def run(context: StageContext) -> Outcome[ExportReport]:
    """Writes the bundle with the vectors of the refitted model, if there is one, and the metrics of the evaluated
    model."""
    train, seen = _pairs(context, TRAIN_PART), _seen(context)
    dislikes = context.read(ALL_DISLIKES) if context.has(ALL_DISLIKES) else None
    refitted = context.has(REFIT_EMBEDDINGS)
    vectors = context.read(REFIT_EMBEDDINGS if refitted else EMBEDDINGS)
    trained_on = seen if refitted else train
    users = _with_vectors(context, USER_VOCABULARY, vectors.user, trained_on, c.USER_INDEX)
    items = _titled(context, _with_vectors(context, ITEM_VOCABULARY, vectors.item, trained_on, c.ITEM_INDEX))

    settings, _ = chosen_settings(context, context.recipe.train)
    names = context.recipe.export.attributes
    contents = Contents(
        users=users.select(c.USER, c.TRAIN_COUNT, c.VECTOR),
        items=items,
        seen=seen if dislikes is None else _with_dislikes(seen, dislikes),
        trained_on="all" if refitted else "train",
        cold_vectors="text" if settings.predicts_cold_rows else "untrained",
        misplaced=_mismatched(context, users, USER_VOCABULARY, vectors.user)
        + _mismatched(context, items, ITEM_VOCABULARY, vectors.item),
        attributes=attribute_values(context.read(ITEMS), context.read(ITEM_VOCABULARY), names) if names else None,
        reranker=context.path(RERANKER) if context.recipe.rerank else None,
    )
    context.progress.start("index", 1, "bundles")
    report: BundleReport = write_bundle(context.out, contents, context.read(METRICS)["test"], context.recipe.export)
    context.progress.advance()

    return Outcome(report.users.rows + report.items.rows, ExportReport.model_validate(report.model_dump(mode="json")))


def _with_vectors(
    context: StageContext, vocabulary: File[pl.DataFrame], vectors: NDArray[np.float32], known: pl.DataFrame, index: str
) -> pl.DataFrame:
    """A vocabulary in index order, with each row's vector and the number of its interactions among `known`."""
    rows = context.read(vocabulary).sort(index)
    if vectors.ndim != 2 or len(vectors) != rows.height:
        what = f"{len(vectors)} vectors for a vocabulary of {rows.height} rows ({vocabulary.name})"
        raise DarecError(what, where=str(context.path(EMBEDDINGS)), hint="run train again with --force train")

    numbers = rows[index].to_numpy()
    counts = np.bincount(known[index].to_numpy(), minlength=numbers.max(initial=-1) + 1).astype(np.int32)
    return rows.with_columns(
        pl.Series(c.TRAIN_COUNT, counts[numbers]),
        pl.Series(c.VECTOR, vectors, dtype=pl.Array(pl.Float32, vectors.shape[1])),
    )


def _titled(context: StageContext, items: pl.DataFrame) -> pl.DataFrame:
    """The items with their titles; an item without a title is shown by its id."""
    titles = context.read(ITEMS).select(c.ITEM, c.TITLE)
    titled = items.join(titles, on=c.ITEM, how="left", maintain_order="left")
    return titled.select(c.ITEM, pl.coalesce(c.TITLE, c.ITEM).alias(c.TITLE), c.TRAIN_COUNT, c.VECTOR)


def _pairs(context: StageContext, *parts: File[pl.DataFrame]) -> pl.DataFrame:
    """The user and item numbers of parts of the split, without the other columns."""
    found = [context.scan(part).select(c.USER_INDEX, c.ITEM_INDEX) for part in parts]
    return pl.concat(found).collect(engine="streaming")


def _seen(context: StageContext) -> pl.DataFrame:
    """Every known pair once, sorted by user and item."""
    pairs = _pairs(context, TRAIN_PART, VAL_PART, TEST_PART)

    # One number per pair, which NumPy sorts in a sixth of the time that a table of two columns takes.
    keys = pairs[c.USER_INDEX].to_numpy().astype(np.int64)
    keys <<= 32
    keys |= pairs[c.ITEM_INDEX].to_numpy()
    keys.sort()
    first = np.ones(len(keys), dtype=bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    keys = keys[first]
    columns = {c.USER_INDEX: (keys >> 32).astype(np.int32), c.ITEM_INDEX: keys.astype(np.int32)}
    return pl.DataFrame(columns, schema=pairs.schema)


def _with_dislikes(seen: pl.DataFrame, dislikes: pl.DataFrame) -> pl.DataFrame:
    """All pairs that are never recommended, with dislikes marked. A pair that is both counts as a like."""
    pairs = pl.concat(
        [seen.with_columns(pl.lit(False).alias(c.DISLIKED)), dislikes.with_columns(pl.lit(True).alias(c.DISLIKED))]
    )
    return pairs.unique([c.USER_INDEX, c.ITEM_INDEX], keep="first", maintain_order=True)


def _mismatched(
    context: StageContext, table: pl.DataFrame, vocabulary: File[pl.DataFrame], trained: NDArray[np.float32]
) -> int:
    """The number of rows whose vector differs from the trained vector of their external id.

    The finished table is compared with the inputs, so that a row that was moved in any step is found.
    """
    ids = context.read(vocabulary)
    index, name = ids.columns
    numbers = table.select(name).join(ids.unique(name, keep="first"), on=name, how="left", maintain_order="left")[index]
    expected = trained[numbers.fill_null(0).to_numpy()]
    same = vectors_of(table).view(np.uint32) == expected.view(np.uint32)
    return int((~same.all(1) | numbers.is_null().to_numpy()).sum())
