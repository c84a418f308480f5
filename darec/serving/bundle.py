"""The export bundle: one folder with everything that is needed to serve recommendations. It is written once.

items.faiss      inner-product index over item vectors: user -> items
similar.faiss    the same over normalised vectors: item -> items
items.ivfdata, similar.ivfdata  the inverted lists of both; only if they were built in shards (`export.shard_items`)
users.parquet    external id, train interactions, vector; row = user index; a user who was forgotten has no id
items.parquet    external id, title, train interactions, vector; row = item index = number in both indexes
seen.parquet     known (user index, item index) pairs of all splits, sorted by user; with the column `disliked` also
                 dislikes, which are no interactions and are left out of lists alike
reranker.safetensors  what reorders the candidates of the index; only if the recipe has a reranker
attributes.parquet    values of the items' attributes that rules may name; only if the recipe names attributes
report.json      metrics, index recall, sizes, and facts about vectors and ids, which the gate checks
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from pydantic import ValidationError

from darec.artifacts.store import Artifact
from darec.artifacts.tables import places_of, write_table
from darec.common.errors import DarecError, UserError
from darec.serving import index
from darec.serving.index_build import Rows, build_file
from schemas import columns as c
from schemas.release import (
    ATTRIBUTES_FILE,
    ITEM_INDEX_FILE,
    ITEMS_FILE,
    REPORT_FILE,
    RERANKER_FILE,
    SEEN_FILE,
    SIMILAR_INDEX_FILE,
    USERS_FILE,
    BundleReport,
    ExportConfig,
    Metrics,
    VectorReport,
)
from schemas.tables import ITEM_ATTRIBUTES, SEEN, SEEN_EXTRAS, TableSchema, released_items, released_users

if TYPE_CHECKING:
    from darec.evaluation.rerank import Reranker
    from darec.serving.fold_in import HistoryMap

_FEW = 16  # maximum number of ids that are looked up individually
_ROWS_IN_GROUP = 16_384  # size of a row group, which is decoded to read one row
_HINT = "run again to export it again, or run `darec rollback`"


@dataclass(frozen=True)
class Contents:
    """The content of a bundle; rows are in the order of the vocabulary."""

    users: pl.DataFrame
    """A table with the schema `released_users`."""
    items: pl.DataFrame
    """A table with the schema `released_items`."""
    seen: pl.DataFrame
    """A table with the schema `SEEN`, and with the column of `SEEN_EXTRAS` if there are dislikes."""
    misplaced: int = 0
    """Number of users and items whose vector is not the trained vector of their external id."""
    reranker: Path | None = None
    """The file of the reranker, if the recipe has one."""
    attributes: pl.DataFrame | None = None
    """A table with the schema `ITEM_ATTRIBUTES`, if the recipe names attributes."""
    trained_on: Literal["train", "all"] = "train"
    """The interactions that the vectors are trained on; see `BundleReport`."""
    cold_vectors: Literal["untrained", "text"] = "untrained"
    """The kind of vectors of users and items without interactions; see `BundleReport`."""


def write_bundle(folder: Path, contents: Contents, metrics: Metrics, config: ExportConfig) -> BundleReport:
    """Builds both indexes and writes all files. Equal contents give equal bytes.

    Vectors that are not finite are written unchanged and reported; in the indexes they are replaced by zeros, and the
    gate refuses the bundle.
    """
    users, items = vectors_of(contents.users), vectors_of(contents.items)
    directions = Rows(items, lambda rows: index.normalised(_finite(rows)))
    item_report = build_file(Rows(items, _finite), Rows(users, _finite), config, folder / ITEM_INDEX_FILE)
    similar_report = build_file(directions, directions, config, folder / SIMILAR_INDEX_FILE)

    report = BundleReport(
        trained_on=contents.trained_on,
        cold_vectors=contents.cold_vectors,
        width=items.shape[1],
        interactions=_interactions(contents.seen),
        seen_out_of_range=_out_of_range(contents),
        misplaced=contents.misplaced,
        users=_facts(contents.users, c.USER, users),
        items=_facts(contents.items, c.ITEM, items),
        item_index=item_report,
        similar_index=similar_report,
        metrics=metrics,
        config=config,
    )

    write_table(contents.users, folder / USERS_FILE, released_users(report.width), rows_in_group=_ROWS_IN_GROUP)
    write_table(contents.items, folder / ITEMS_FILE, released_items(report.width), rows_in_group=_ROWS_IN_GROUP)
    write_table(_in_order(contents.seen), folder / SEEN_FILE, SEEN, SEEN_EXTRAS)
    if contents.reranker:
        copyfile(contents.reranker, folder / RERANKER_FILE)
    if contents.attributes is not None:
        write_table(contents.attributes, folder / ATTRIBUTES_FILE, ITEM_ATTRIBUTES)
    (folder / REPORT_FILE).write_text(report.model_dump_json(indent=1))

    return report


def write_without(bundle: Path, folder: Path, user_id: str) -> BundleReport:
    """Writes a copy of the bundle without a user to `folder`, so that the answers for all other users stay the same.

    The user's row is kept, because the numbers of others would otherwise change, but it has no id, no train
    interactions and a vector of zeros. Known pairs of the user are removed. All other files are unchanged, and hard
    links if the file system supports them.
    """
    Artifact(bundle).fetch()
    report = read_report(bundle)
    users, seen = pl.read_parquet(bundle / USERS_FILE), pl.read_parquet(bundle / SEEN_FILE)
    gone = (users[c.USER] == user_id).fill_null(False)
    vectors = vectors_of(users).copy()
    vectors[gone.to_numpy()] = 0
    users = users.with_columns(
        pl.when(gone).then(None).otherwise(pl.col(c.USER)).alias(c.USER),
        pl.when(gone).then(0).otherwise(pl.col(c.TRAIN_COUNT)).cast(pl.Int32).alias(c.TRAIN_COUNT),
        pl.Series(c.VECTOR, vectors, dtype=pl.Array(pl.Float32, report.width)),
    )
    seen = seen.filter(~pl.col(c.USER_INDEX).is_in(gone.arg_true().implode()))
    left = users.drop_nulls(c.USER)
    facts = {"interactions": _interactions(seen), "users": _facts(left, c.USER, vectors_of(left))}
    report = report.model_copy(update=facts)

    schema = TableSchema(released_users(report.width), nullable=(c.USER,))
    write_table(users, folder / USERS_FILE, schema, rows_in_group=_ROWS_IN_GROUP)
    write_table(seen, folder / SEEN_FILE, SEEN, SEEN_EXTRAS)
    (folder / REPORT_FILE).write_text(report.model_dump_json(indent=1))

    for name in Artifact(bundle).manifest.files.keys() - {USERS_FILE, SEEN_FILE, REPORT_FILE}:
        try:
            os.link(bundle / name, folder / name)
        except OSError:
            copyfile(bundle / name, folder / name)

    return report


@dataclass(frozen=True)
class Bundle:
    """A bundle opened for reading. Indexes are mapped and tables scanned: memory stays flat in the number of users."""

    folder: Path
    report: BundleReport

    @classmethod
    def open(cls, folder: Path) -> "Bundle":
        """Opens the bundle in `folder`, which may be the `current` link; later releases do not change it.

        Raises:
            DarecError: a file is missing or has a wrong checksum.
        """
        folder = folder.resolve()
        if trouble := Artifact(folder).damage(checksums=True):
            raise DarecError(f"the bundle is damaged: {trouble}", where=str(folder), hint=_HINT)
        Artifact(folder).fetch()
        return cls(folder, read_report(folder))

    @cached_property
    def item_index(self) -> Any:
        """Inner-product index over items."""
        return index.read(self.folder / ITEM_INDEX_FILE)

    @cached_property
    def similar_index(self) -> Any:
        """Cosine index over items."""
        return index.read(self.folder / SIMILAR_INDEX_FILE)

    @cached_property
    def reranker(self) -> "Reranker | None":
        """Reorders the candidates of `item_index`, if the release has a reranker."""
        path = self.folder / RERANKER_FILE
        if not path.is_file():
            return None
        from darec.evaluation.rerankers import read  # imports torch, which a release without a reranker does not need

        return read(path)

    @cached_property
    def items(self) -> pl.DataFrame:
        """`item_id`, `title`, `train_count` of all items; row = item index. Vectors stay on disk."""
        return self._scan(ITEMS_FILE).select(c.ITEM, c.TITLE, c.TRAIN_COUNT).collect()

    def attribute(self, name: str) -> pl.DataFrame:
        """`item_index` and `value` of all items that have the attribute. Raises UserError if the release lacks it."""
        path = self.folder / ATTRIBUTES_FILE
        if name not in self.report.config.attributes or not path.is_file():
            hint = f"add {name!r} to export.attributes and run again"
            raise UserError(f"the release does not have the attribute {name!r}", where="rules", hint=hint)
        return self._scan(ATTRIBUTES_FILE).filter(pl.col("name") == name).select(c.ITEM_INDEX, "value").collect()

    def users(self, user_ids: Sequence[str]) -> pl.DataFrame:
        """`user_index` and the columns of `users.parquet` of the known ones among these users, in
        no particular order.
        """
        return self._pick(USERS_FILE, c.USER_INDEX, c.USER, user_ids)

    def item_vectors(self, item_ids: Sequence[str]) -> pl.DataFrame:
        """`item_index` and the columns of `items.parquet` of the known ones among these items, in
        no particular order.
        """
        return self._pick(ITEMS_FILE, c.ITEM_INDEX, c.ITEM, item_ids)

    def all_item_vectors(self) -> index.Floats:
        """The vectors of all items, float32 [n_items, width]."""
        return vectors_of(self._scan(ITEMS_FILE).select(c.VECTOR).collect())

    def user_ids(self) -> pl.Series:
        """All external user ids in the order of user indices; users who were forgotten have none."""
        return self._scan(USERS_FILE).select(c.USER).drop_nulls().collect()[c.USER]

    @cached_property
    def user_rows(self) -> int:
        """The number of user indices, including users who were forgotten."""
        return self._scan(USERS_FILE).select(pl.len()).collect().item()

    @cached_property
    def fold_in(self) -> "HistoryMap":
        """The map from histories to user vectors."""
        from darec.serving.fold_in import learn  # imports torch, which other queries do not need

        return learn(self)

    def trained_users(self, most: int) -> pl.DataFrame:
        """`user_index` and `vector` of at most `most` users with interactions, evenly spaced."""
        known = self._scan(USERS_FILE).with_row_index(c.USER_INDEX).filter(pl.col(c.TRAIN_COUNT) > 0)
        step = -(-known.select(pl.len()).collect().item() // most) or 1
        return known.select(c.USER_INDEX, c.VECTOR).collect().gather_every(step)

    def seen(self, user_indices: Sequence[int]) -> pl.DataFrame:
        """The pairs of these users that are not recommended: interactions and dislikes."""
        return self._pairs(user_indices, disliked=None)

    def liked(self, user_indices: Sequence[int]) -> pl.DataFrame:
        """The pairs of these users that are interactions."""
        return self._pairs(user_indices, disliked=False)

    def disliked(self, user_indices: Sequence[int]) -> pl.DataFrame:
        """The pairs of these users that are dislikes."""
        return self._pairs(user_indices, disliked=True)

    def _pairs(self, user_indices: Sequence[int], disliked: bool | None) -> pl.DataFrame:
        pairs = self._scan(SEEN_FILE).filter(pl.col(c.USER_INDEX).is_in(list(user_indices)))
        return _only(pairs, disliked).select(list(SEEN)).collect()

    def users_between(self, start: int, stop: int) -> pl.DataFrame:
        """`user_index` and the columns of `users.parquet`, of the users from number `start` to `stop`."""
        return self._scan(USERS_FILE).with_row_index(c.USER_INDEX).slice(start, stop - start).collect()

    def items_between(self, start: int, stop: int) -> pl.DataFrame:
        """`item_index` and the columns of `items.parquet`, of the items from number `start` to `stop`."""
        return self._scan(ITEMS_FILE).with_row_index(c.ITEM_INDEX).slice(start, stop - start).collect()

    def seen_between(self, start: int, stop: int, disliked: bool | None = None) -> pl.DataFrame:
        """The known pairs of the users from number `start` to `stop`, or only those that are dislikes or are none."""
        pairs = self._scan(SEEN_FILE).filter(pl.col(c.USER_INDEX).is_between(start, stop, closed="left"))
        return _only(pairs, disliked).select(list(SEEN)).collect()

    def _scan(self, file: str) -> pl.LazyFrame:
        return pl.scan_parquet(self.folder / file, glob=False)

    def _pick(self, file: str, number: str, name: str, ids: Sequence[str]) -> pl.DataFrame:
        rows = self._scan(file).with_row_index(number)
        places = places_of(self.folder / file, name, ids) if len(ids) <= _FEW else None
        if not places:
            return rows.filter(pl.col(name).is_in(list(ids))).collect()
        return pl.concat([rows.slice(place, 1) for place in places]).collect()


def _only(pairs: pl.LazyFrame, disliked: bool | None) -> pl.LazyFrame:
    """The pairs that are dislikes, or those that are not; all for None. Older bundles have no dislikes."""
    if disliked is None:
        return pairs
    is_disliked = pl.col(c.DISLIKED) if c.DISLIKED in pairs.collect_schema() else pl.lit(False)
    return pairs.filter(is_disliked == disliked)


def _in_order(seen: pl.DataFrame) -> pl.DataFrame:
    """The pairs sorted by user and item."""
    users, items = seen[c.USER_INDEX].to_numpy(), seen[c.ITEM_INDEX].to_numpy()
    later = (users[1:] > users[:-1]) | ((users[1:] == users[:-1]) & (items[1:] >= items[:-1]))
    return seen if later.all() else seen.sort(c.USER_INDEX, c.ITEM_INDEX)


def _interactions(seen: pl.DataFrame) -> int:
    """The number of pairs that are not dislikes."""
    return seen.height - (int(seen[c.DISLIKED].sum()) if c.DISLIKED in seen.columns else 0)


def read_report(folder: Path) -> BundleReport:
    """The bundle's report. Raises DarecError if it cannot be read."""
    path = Artifact(folder).file(REPORT_FILE)
    try:
        return BundleReport.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DarecError("the bundle's report cannot be read", where=str(path), hint=_HINT) from error


def vectors_of(table: pl.DataFrame) -> index.Floats:
    """The table's `vector` column as float32 [rows, width]."""
    return np.ascontiguousarray(table[c.VECTOR].to_numpy())


def _finite(vectors: index.Floats) -> index.Floats:
    return np.where(np.isfinite(vectors), vectors, np.float32(0))


def _facts(table: pl.DataFrame, name: str, vectors: index.Floats) -> VectorReport:
    finite = np.isfinite(vectors).all(1)
    norms = np.linalg.norm(vectors[finite], axis=1)
    trained = table[c.TRAIN_COUNT].to_numpy()[finite] > 0
    least, middle, most = np.quantile(norms, [0, 0.5, 1]).tolist() if len(norms) else (0.0, 0.0, 0.0)
    return VectorReport(
        rows=table.height,
        distinct_ids=table[name].n_unique(),
        empty_ids=int((table[name].fill_null("") == "").sum()),
        not_finite=int((~finite).sum()),
        zero=int((trained & (norms == 0)).sum()),
        smallest_norm=least,
        median_norm=middle,
        largest_norm=most,
    )


def _out_of_range(contents: Contents) -> int:
    user, item = pl.col(c.USER_INDEX), pl.col(c.ITEM_INDEX)
    inside = user.is_between(0, contents.users.height - 1) & item.is_between(0, contents.items.height - 1)
    return contents.seen.filter(~inside).height
