"""Whole runs over the checkerboard with everything real but LLM and encoder, whose answers are made up here."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import save_file

from darec.artifacts.store import Artifact, Store
from darec.artifacts.tables import read_table, write_table
from schemas.recipe import Recipe
from schemas.tables import ITEM_PROFILES, ITEM_VOCABULARY, USER_PROFILES, USER_VOCABULARY
from stages.contract import Outcome, StageContext
from stages.execute import Job, execute
from stages.registry import STAGES, needed
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
    done: dict[str, Artifact] = {}
    for stage in needed(chosen, until):
        result = execute(Job(FAKES.get(stage.name, stage), chosen, done), store)
        if result.artifact:
            done[stage.name] = result.artifact
    return {name: artifact.key for name, artifact in done.items()}


def _profiles(context: StageContext, schema, vocabulary: pl.DataFrame) -> Outcome:
    name = vocabulary.columns[1]
    rows = vocabulary.with_columns(profile=pl.format("Profile of {}", name), source=pl.lit("llm"))
    write_table(rows, context.out / "profiles.parquet", schema)
    samples = [{"prompt": f"Item: {HOSTILE}", "profile": f"Profile {HOSTILE}"}]
    report = {"generated": rows.height, "prompt_tokens": 1000, "output_tokens": 234, "from_metadata": 3}
    report |= {"output_tokens_per_second": 12.5, "causes": {"length": 2, "not_json": 1}, "samples": samples}
    return Outcome(rows.height, report)


def _profile_items(context: StageContext) -> Outcome:
    return _profiles(context, ITEM_PROFILES, read_table(context.input("split", "items.parquet"), ITEM_VOCABULARY))


def _profile_users(context: StageContext) -> Outcome:
    return _profiles(context, USER_PROFILES, read_table(context.input("split", "users.parquet"), USER_VOCABULARY))


def _embed(context: StageContext) -> Outcome:
    """Even and odd rows have opposite directions, with some noise."""
    generator = np.random.default_rng(0)

    def side(stage: str) -> np.ndarray:
        rows = pl.read_parquet(context.input(stage, "profiles.parquet")).height
        parity = np.where(np.arange(rows) % 2, -1.0, 1.0)[:, None]
        return (parity + 0.3 * generator.standard_normal((rows, 12))).astype(np.float32)

    vectors = {"user": side("profile_users"), "item": side("profile_items")}
    save_file(vectors, context.out / "vectors.safetensors")
    return Outcome(sum(map(len, vectors.values())), {"rows": 64, "seconds": 0.1, "samples": [HOSTILE]})


def _fake(name: str, run_function):
    return replace(STAGES[name], run=run_function, material=lambda recipe: {}, pending=None)


FAKES = {
    "profile_items": _fake("profile_items", _profile_items),
    "profile_users": _fake("profile_users", _profile_users),
    "embed": _fake("embed", _embed),
}


def grown(folder: Path, new: Sequence[tuple[str, str]]) -> None:
    """Adds interactions to the data: (user, item), all of the last day; an unknown item joins the catalogue."""
    old = pl.read_csv(folder / "interactions.csv")
    users, items = zip(*new, strict=True)
    rows = pl.DataFrame({"user_id": users, "item_id": items, "rating": 5, "timestamp": 1_800_000_000, "split": "train"})
    pl.concat([old, rows.cast(dict(old.schema))]).write_csv(folder / "interactions.csv")
    catalogue = pl.read_csv(folder / "items.csv")
    unknown = sorted(set(items) - set(catalogue["item_id"]))
    pl.concat([catalogue, pl.DataFrame({"item_id": unknown})], how="diagonal").write_csv(folder / "items.csv")
