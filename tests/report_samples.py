"""Whole runs over the checkerboard with everything real but LLM and encoder, whose answers are made up here."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl

from darec.artifacts import files
from darec.artifacts.files import File
from darec.artifacts.formats import Vectors
from darec.artifacts.store import Store
from schemas.recipe import Recipe
from schemas.reports import EmbedReport, ProfileReport
from schemas.tables import FALLBACKS
from stages.contract import Outcome, StageContext
from stages.execute import Result
from stages.registry import STAGES, needed
from stages.walk import run_task, walk
from tests.data import write_checkerboard

HOSTILE = """<script>alert("x")</script> & </title></svg><img src=x onerror=alert(1)>"""


def recipe(folder: Path, **sections) -> Recipe:
    """A recipe over `folder`'s checkerboard, which is written unless it is there; trained for a moment."""
    if not (folder / "items.csv").is_file():
        write_checkerboard(folder)
    data = {role: str(folder / f"{role}.csv") for role in ("interactions", "items", "users")}
    data |= {"source": "csv", "min_rating": None, "interaction_columns": {"timestamp": "timestamp"}}
    train = {"epochs": 4, "eval_every": 2, "dim": 8}
    defaults = {"data": data, "split": {"k_core": 1}, "train": train, "gate": {"minimums": {}, "tolerances": {}}}
    return Recipe.model_validate(defaults | {"runtime": {"store": str(folder / "store")}} | sections)


def make_hostile(folder: Path) -> None:
    """The title of the first two items becomes markup."""
    items = pl.read_csv(folder / "items.csv")
    titles = [HOSTILE, HOSTILE, *items["title"][2:]]
    items.with_columns(pl.Series("title", titles)).write_csv(folder / "items.csv")


def run(chosen: Recipe, until: str = "publish") -> dict[str, str]:
    """Runs the stages; stage to key of all artifacts."""
    store = Store(chosen.runtime.store)

    def visit(task, upstream) -> Result:
        return run_task(FAKES.get(task.name, task), chosen, upstream, store)

    results = walk(needed(chosen, until), visit)
    return {result.stage: result.artifact.key for result in results if result.artifact}


def _profiles(
    context: StageContext, file: File[pl.DataFrame], fallbacks: File[pl.DataFrame], ids: File[pl.DataFrame]
) -> Outcome:
    vocabulary = context.read(ids)
    name = vocabulary.columns[1]
    rows = vocabulary.with_columns(profile=pl.format("Profile of {}", name), source=pl.lit("llm"))
    context.write(file, rows)
    context.write(fallbacks, pl.DataFrame(schema=FALLBACKS))
    samples = [{"prompt": f"Item: {HOSTILE}", "profile": f"Profile {HOSTILE}"}]
    report = {"generated": rows.height, "prompt_tokens": 1000, "output_tokens": 234, "from_metadata": 3}
    report |= {"output_tokens_per_second": 12.5, "causes": {"length": 2, "not_json": 1}, "samples": samples}
    return Outcome(rows.height, ProfileReport.model_validate(report))


def _profile_items(context: StageContext) -> Outcome:
    return _profiles(context, files.ITEM_PROFILES, files.ITEM_FALLBACKS, files.ITEM_VOCABULARY)


def _profile_users(context: StageContext) -> Outcome:
    return _profiles(context, files.USER_PROFILES, files.USER_FALLBACKS, files.USER_VOCABULARY)


def _embed(context: StageContext) -> Outcome:
    """Even and odd rows have opposite directions, with some noise."""
    generator = np.random.default_rng(0)

    def side(file: File[pl.DataFrame]) -> np.ndarray:
        rows = context.read(file).height
        parity = np.where(np.arange(rows) % 2, -1.0, 1.0)[:, None]
        return (parity + 0.3 * generator.standard_normal((rows, 12))).astype(np.float32)

    vectors = Vectors(side(files.USER_PROFILES), side(files.ITEM_PROFILES))
    context.write(files.TEXT_VECTORS, vectors)
    return Outcome(sum(map(len, vectors)), EmbedReport(rows=64, seconds=0.1, samples=(HOSTILE,)))


def _fake(name: str, run_function):
    body = SimpleNamespace(run=run_function)
    return replace(STAGES[name], body=body, fingerprint=lambda recipe: {}, counts_rows=False)


FAKES = {
    "profile_items": _fake("profile_items", _profile_items),
    "profile_users": _fake("profile_users", _profile_users),
    "embed": _fake("embed", _embed),
}


def grown(folder: Path, new: Sequence[tuple[str, str]]) -> None:
    """Adds interactions to the data: (user, item), all of the last day; an unknown item joins the catalogue."""
    old = pl.read_csv(folder / "interactions.csv")
    users, items = zip(*new, strict=True)
    rows = pl.DataFrame({"user_id": users, "item_id": items, "rating": 5, "timestamp": 1_705_000_000, "split": "train"})
    pl.concat([old, rows.cast(dict(old.schema))]).write_csv(folder / "interactions.csv")
    catalogue = pl.read_csv(folder / "items.csv")
    unknown = sorted(set(items) - set(catalogue["item_id"]))
    pl.concat([catalogue, pl.DataFrame({"item_id": unknown})], how="diagonal").write_csv(folder / "items.csv")
