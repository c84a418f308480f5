"""Two runs on the same split: their metrics with paired tests, their texts, and the users for whom most has changed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from darec.artifacts import files
from darec.artifacts.files import File
from darec.artifacts.keys import differences
from darec.common.errors import UserError
from darec.report.render import render_page
from darec.report.source import Source
from darec.serving.paired import MetricRow, paired_tests, top_lists
from schemas import columns as c
from schemas.recipe import Recipe
from schemas.section import hashed

_TEXTS = 5  # number of changed texts that are shown, of items and of users
_HISTORY = 8  # number of items of a user's history that are shown
_LIST = 10  # number of recommendations that are shown


@dataclass(frozen=True)
class TextChange:
    """A row with different profiles in the two runs."""

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class TextChanges:
    """The profiles of one stage."""

    stage: str
    rows: int
    changed: int
    examples: tuple[TextChange, ...]


@dataclass(frozen=True)
class Example:
    """A user for whom the metric has changed most."""

    user: str
    first_value: float
    second_value: float
    history: tuple[str, ...]
    """Titles of the latest train items."""
    wanted: tuple[str, ...]
    """Titles of the test items."""
    first_list: tuple[tuple[str, bool], ...]
    """Title, and whether it is a test item; best first."""
    second_list: tuple[tuple[str, bool], ...]
    first_profile: str
    second_profile: str


@dataclass(frozen=True)
class RunComparison:
    """Everything that differs between two runs on the same split."""

    names: tuple[str, str]
    users: int
    """Number of users with test items."""
    config: tuple[str, ...]
    """Settings that differ: `path: first -> second`."""
    metrics: tuple[MetricRow, ...]
    texts: tuple[TextChanges, ...]
    metric: str
    """The metric that chooses the examples."""
    examples: tuple[Example, ...]


def check_same_split(first: Source, second: Source) -> None:
    """Raises UserError unless both runs have the same users, items, train, validation and test."""
    ours, theirs = first.artifact("split").hashes, second.artifact("split").hashes
    if changed := sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)):
        what = f"the two recipes do not have the same split ({', '.join(changed)} differ)"
        hint = "compare recipes with the same `data` and `split` sections, on data that did not change in between"
        raise UserError(what, hint=hint)


def compare_runs(
    names: tuple[str, str],
    recipes: tuple[Recipe, Recipe],
    sources: tuple[Source, Source],
    metric: str = "",
    examples: int = 3,
) -> RunComparison:
    """Compares the test metrics of two evaluated runs user by user.

    Args:
        names: what the runs are called.
        recipes: their recipes.
        sources: their artifacts, until `evaluate`.
        metric: chooses the examples, such as `recall@20`; empty: recall at the greatest cutoff of both.
        examples: number of users with the largest gains, and of users with the largest losses.

    Raises:
        UserError: the split is not the same, no metric is in both, or `metric` is in neither.
    """
    check_same_split(*sources)
    tables = [pl.read_parquet(source.artifact("evaluate").file(files.PER_USER_METRICS.name)) for source in sources]
    if not tables[0][c.USER_INDEX].equals(tables[1][c.USER_INDEX]):
        raise UserError("the two runs were not evaluated on the same users", hint="evaluate both on the same split")

    shared = [name for name in tables[0].columns if "@" in name and "/" not in name and name in tables[1].columns]
    if not shared:
        raise UserError("the two runs have no metric in common", where="evaluate.cutoffs", hint="use the same cutoffs")

    metric = metric or max((name for name in shared if name.startswith("recall@")), key=_cutoff, default=shared[-1])
    if metric not in shared:
        raise UserError(f"no metric {metric!r} in both runs", hint=f"choose one of {', '.join(shared)}")

    before, after = (hashed(recipe) for recipe in recipes)
    return RunComparison(
        names=names,
        users=tables[0].height,
        config=tuple(differences(before, after)) + tuple(_prompt_changes(*recipes)),
        metrics=tuple(paired_tests(tables[0], tables[1], shared)),
        texts=tuple(_text_changes(*sources)),
        metric=metric,
        examples=tuple(_examples(recipes, sources, tables, metric, examples)),
    )


def comparison_page(found: RunComparison) -> str:
    """The comparison as one HTML file."""
    return render_page("comparison.html.j2", found=found)


def _cutoff(name: str) -> int:
    return int(name.partition("@")[2])


def _prompt_changes(first: Recipe, second: Recipe) -> Iterator[str]:
    """Paths of prompts are not part of keys, and are therefore not listed as differences of settings."""
    for section, field in (
        ("profile_items", "prompt"),
        ("profile_users", "prompt"),
        ("embed", "item_prompt"),
        ("embed", "user_prompt"),
    ):
        old, new = getattr(getattr(first, section), field), getattr(getattr(second, section), field)
        if old != new:
            yield f"{section}.{field}: {old} -> {new}"


def _text_changes(first: Source, second: Source) -> Iterator[TextChanges]:
    titles = first.items[c.TITLE]
    for stage, file, index in (
        ("profile_items", files.ITEM_PROFILES, c.ITEM_INDEX),
        ("profile_users", files.USER_PROFILES, c.USER_INDEX),
    ):
        if not (first.has(stage) and second.has(stage)):
            continue
        before, after = (_profiles(source, file, index) for source in (first, second))
        changed = np.flatnonzero((before[c.PROFILE] != after[c.PROFILE]).to_numpy())
        shown = changed[np.unique(np.linspace(0, len(changed) - 1, min(_TEXTS, len(changed))).astype(int))]
        names = titles if index == c.ITEM_INDEX else before[c.USER]
        pairs = [(names[int(row)], before[c.PROFILE][int(row)], after[c.PROFILE][int(row)]) for row in shown]
        yield TextChanges(stage, before.height, len(changed), tuple(TextChange(*pair) for pair in pairs))


def _profiles(source: Source, file: File[pl.DataFrame], index: str) -> pl.DataFrame:
    return source.read(file).sort(index)


def _examples(
    recipes: tuple[Recipe, Recipe],
    sources: tuple[Source, Source],
    tables: list[pl.DataFrame],
    metric: str,
    count: int,
) -> Iterator[Example]:
    """The users with the largest gains and losses."""
    before, after = (table[metric].cast(pl.Float64).to_numpy() for table in tables)
    gap = np.nan_to_num(after - before)
    order = np.argsort(gap, kind="stable")
    chosen = [place for place in order[::-1][:count] if gap[place] > 0] + [
        place for place in order[:count] if gap[place] < 0
    ]
    users = [int(tables[0][c.USER_INDEX][int(place)]) for place in chosen]
    if not users:
        return

    source = sources[0]
    names = source.read(files.USER_VOCABULARY).sort(c.USER_INDEX)[c.USER]
    titles = source.items[c.TITLE]
    test = source.read(files.TEST_PART)
    lists = [_lists(recipe, each, users) for recipe, each in zip(recipes, sources, strict=True)]
    profiles = [_user_profiles(each, users) for each in sources]

    for place, user in zip(chosen, users, strict=True):
        wanted = set(test.filter(pl.col(c.USER_INDEX) == user)[c.ITEM_INDEX])
        latest = source.train.filter(pl.col(c.USER_INDEX) == user).sort(c.TIMESTAMP, descending=True, nulls_last=True)
        shown = [tuple((titles[item], item in wanted) for item in top[user]) for top in lists]
        yield Example(
            user=names[user],
            first_value=float(before[place]),
            second_value=float(after[place]),
            history=tuple(titles[item] for item in latest[c.ITEM_INDEX].head(_HISTORY)),
            wanted=tuple(titles[item] for item in sorted(wanted)),
            first_list=shown[0],
            second_list=shown[1],
            first_profile=profiles[0].get(user, ""),
            second_profile=profiles[1].get(user, ""),
        )


def _lists(recipe: Recipe, source: Source, users: list[int]) -> dict[int, list[int]]:
    """The first items of each user, as they were evaluated."""
    parts = [source.read(part) for part in (files.TRAIN_PART, files.VAL_PART, files.TEST_PART)]
    reranker = source.artifact(files.RERANKER.stage).file(files.RERANKER.name) if recipe.rerank else None
    return top_lists(source.read(files.EMBEDDINGS), parts, users, _LIST, reranker)


def _user_profiles(source: Source, users: list[int]) -> Mapping[int, str]:
    if not source.has("profile_users"):
        return {}
    table = source.read(files.USER_PROFILES).filter(pl.col(c.USER_INDEX).is_in(users))
    return dict(table.select(c.USER_INDEX, c.PROFILE).iter_rows())
