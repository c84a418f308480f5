"""Nights on data that grows, with real training: what the gate lets pass and what it stops."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from darec.artifacts.store import Artifact, Store, file_records
from darec.serving.bundle import Bundle, Contents, vectors_of
from darec.serving.evidence import gather
from darec.serving.recommend import recommend
from darec.serving.releases import Releases
from darec.serving.retention import collect
from schemas import columns as c
from schemas.recipe import Recipe
from schemas.release import GateConfig
from schemas.reports import EvaluationReport
from schemas.training import EvaluateConfig
from stages.walk import run
from tests import report_samples
from tests.data import write_tastes
from tests.release_samples import export

TRAIN = {"alignment": [], "dim": 16, "epochs": 30, "eval_every": 5, "learning_rate": 0.01, "warm_start": True}
UNTRAINED = {"epochs": 1, "learning_rate": 1e-5, "warm_start": False}


def recipe(folder: Path, gate: dict | None = None, **train) -> Recipe:
    data = {"source": "csv", "interactions": str(folder / "interactions.csv")}
    data["interaction_columns"] = {"timestamp": "timestamp"}
    runtime = {"store": str(folder / "store"), "min_free_gb": 0}
    return Recipe.model_validate({"data": data, "train": TRAIN | train, "gate": gate or {}, "runtime": runtime})


def night(folder: Path, gate: dict | None = None, **train):
    """Runs a night; its release and its report of evaluation."""
    results = {result.stage: result for result in run(recipe(folder, gate, **train))}
    return Releases(folder / "store").all()[0], results["evaluate"].report


def add_noise(folder: Path, events: int, new_users: int, new_items: int, seed: int = 0) -> None:
    """`events` unpredictable new interactions, the latest of all: they become the users' test."""
    generator = np.random.default_rng(seed)
    old = pl.read_csv(folder / "interactions.csv")
    users = old["user_id"].unique().sort().to_list() + [f"v{seed}{n}" for n in range(new_users) for _ in range(10)]
    items = old["item_id"].unique().sort().to_list() + [f"j{seed}{n}" for n in range(new_items) for _ in range(10)]
    picked = pl.DataFrame(
        {
            "user_id": generator.choice(users, 3 * events),
            "item_id": generator.choice(items, 3 * events),
            "timestamp": int(old["timestamp"].max()) + 1 + np.arange(3 * events),
        }
    )
    fresh = picked.unique(["user_id", "item_id"], maintain_order=True).join(old, on=["user_id", "item_id"], how="anti")
    pl.concat([old, fresh.head(events)]).write_csv(folder / "interactions.csv")


@pytest.fixture
def first(tmp_path):
    """A first night, published."""
    write_tastes(tmp_path)
    release, report = night(tmp_path)
    assert release.state == "published"
    assert report.test["recall@20"] > 1.3 * report.popularity["recall@20"]
    return tmp_path, release


def test_a_healthy_second_night_on_a_harder_test_is_published(first):
    """New events at random are the users' last ones: the figure of this run falls by far more than the tolerance."""
    folder, before = first
    add_noise(folder, 1100, new_users=5, new_items=2)
    release, report = night(folder)
    assert report.test["recall@20"] < 0.8 * before.report.metrics["recall@20"], "a gate of two nights' figures refuses"
    assert release.state == "published"
    assert release.summary == f"published {release.id}"
    compared = release.evidence.current
    assert compared is not None and compared.against == before.id
    assert compared.users == 400 and compared.test_users > 400, (
        "new users are in the test of this run, not in the comparison"
    )
    assert compared.pairs < compared.test_pairs
    found = compared.metrics["recall@20"]
    assert abs(found.challenger - found.other) < 0.05 * found.other and found.low < 0 < found.high
    newcomer = recommend(Bundle.open(Releases(folder / "store").serving()), "v00", 5)
    assert newcomer.height == 5, "new users are in the release"


def test_a_truly_worse_model_is_refused_on_the_same_test_and_says_by_what(first):
    folder, before = first
    add_noise(folder, 1100, new_users=5, new_items=2)
    release, _ = night(folder, **UNTRAINED)
    assert (release.state, Releases(folder / "store").current()) == ("refused", before)
    check = next(check for check in release.decision.failures if check.name == "against current: recall@20")
    assert check.value < check.limit < check.other
    values = f"recall@20 {check.value:.4f} < {check.limit:.4f} (current {check.other:.4f}"
    assert release.summary.startswith(f"refused {release.id}: {values} on the same 400 users, tolerance 5%); ndcg@20 ")
    again, _ = night(folder, **UNTRAINED)
    assert again == release, "asked once"


def test_the_same_model_again_is_neither_better_nor_worse(first):
    """The same bytes under another name: every interval is of width zero."""
    folder, before = first
    store = Store(folder / "store")
    twin = noisy(store, before, 0.0)
    release = Releases(store.root).publish(twin.path, GateConfig(tolerances={"recall@20": 0.0, "coverage@20": 0.0}))
    for found in release.evidence.current.metrics.values():
        assert found.challenger == found.other
    assert (release.evidence.current.metrics["recall@20"].low, release.evidence.current.metrics["recall@20"].high) == (
        0,
        0,
    )
    assert release.state == "published"


def noisy(store: Store, release, strength: float) -> Artifact:
    """A bundle of the release's night, its vectors mixed with noise, with the lineage of the release's own bundle."""
    folder = Releases(store.root).folder(release)
    generator = np.random.default_rng(1)

    def mixed(table: pl.DataFrame) -> pl.DataFrame:
        vectors = vectors_of(table)
        noise = generator.standard_normal(vectors.shape) * np.linalg.norm(vectors, axis=1, keepdims=True) / 4
        moved = ((1 - strength) * vectors + strength * noise).astype(np.float32)
        return table.with_columns(pl.Series(c.VECTOR, moved, dtype=table.schema[c.VECTOR]))

    users, items, seen = (pl.read_parquet(folder / f"{name}.parquet") for name in ("users", "items", "seen"))
    titled = items.with_columns(pl.format("{} ", c.TITLE)) if strength == 0 else items  # other bytes, same model
    metrics = dict(release.report.metrics)
    return export(store, Contents(mixed(users), mixed(titled), seen), metrics, inputs=Artifact(folder).manifest.inputs)


def recall_at(store: Store, release, strength: float) -> float:
    """Recall@20 on the release's own test, of its vectors mixed with noise."""
    bundle = noisy(store, release, strength)
    evidence = gather(store, bundle, release, (), GateConfig(tolerances={"recall@20": 1.0}), EvaluateConfig())
    store.remove(bundle)
    return evidence.current.metrics["recall@20"].challenger


@pytest.fixture
def decline(first) -> list[float]:
    """How strong a noise leaves 96% of the recall, 96% of that, and so on: ten nights."""
    folder, release = first
    store, found = Store(folder / "store"), [0.0]
    whole = recall_at(store, release, 0.0)
    for number in range(1, 11):
        low, high = found[-1], 1.0
        for _ in range(9):
            middle = (low + high) / 2
            kept = recall_at(store, release, middle) > whole * 0.96**number
            low, high = (middle, high) if kept else (low, middle)
        found.append(high)
    return found[1:]


def test_ten_nights_that_lose_four_percent_each_are_stopped_by_the_floor(first, decline):
    folder, best = first
    store = Store(folder / "store")
    releases, judged = Releases(store.root), []
    gate = GateConfig(tolerances={"recall@20": 0.05})
    for strength in decline:
        judged.append(releases.publish(noisy(store, best, strength).path, gate))
        collect(store, releases=1, artifacts=1)  # the bundles that the floor looks back on outlive it
    states = [release.state for release in judged]
    passed = states.index("refused")
    assert 2 <= passed <= 5 and states == ["published"] * passed + ["refused"] * (10 - passed), "stopped for good"
    assert releases.current() == judged[passed - 1]
    [failed] = judged[passed].decision.failures
    assert failed.name == "against the best of 14 nights: recall@20"
    assert f"({best.id} " in failed.message and "floor 10%" in failed.message
    lost = 1 - judged[passed - 1].evidence.best[-1].metrics["recall@20"].challenger / best.report.metrics["recall@20"]
    print(f"stopped after {passed} nights and {lost:.1%}")
    assert lost < 0.2

    lax, states = gate.model_copy(update={"best_of_nights": 0}), []
    releases.promote(best.id)
    for strength in decline:
        states.append(releases.publish(noisy(store, best, strength + 1e-6).path, lax).state)
    assert states == ["published"] * 10, "each night by itself is within the tolerance"


def test_who_promotes_a_worse_release_by_hand_moves_the_floor(first):
    folder, best = first
    store = Store(folder / "store")
    releases = Releases(store.root)
    refused = releases.publish(noisy(store, best, 0.6).path, GateConfig())
    assert refused.state == "refused"
    releases.promote(refused.id, why="the old one recommends what is sold out")
    after = releases.publish(noisy(store, best, 0.61).path, GateConfig())
    assert after.state == "published" and after.evidence.best == ()


def test_a_night_whose_champion_is_gone_is_judged_by_its_own_figures_and_says_so(first):
    folder, before = first
    store = Store(folder / "store")
    releases = Releases(store.root)
    twin = noisy(store, before, 0.0)
    (releases.folder(before) / "users.parquet").unlink()
    release = releases.publish(twin.path, GateConfig())
    assert release.state == "published" and release.evidence.current is None
    assert "is damaged" in release.evidence.why_not
    [said] = [check.message for check in release.decision.checks if check.name == "against current: recall@20"]
    assert "on the test of its own run" in said


ROW = pl.int_range(pl.len())
HARMED_PROFILES = {
    "profile_users: share from metadata: 0.25 > 0.2": {
        c.SOURCE: pl.when(ROW < 10).then(pl.lit("metadata")).otherwise(c.SOURCE)
    },
    "3 profiles of profile_users that are null or blank": {
        c.PROFILE: pl.when(ROW == 0).then(None).when(ROW < 3).then(pl.lit(" ")).otherwise(c.PROFILE)
    },
}


@pytest.mark.parametrize("message", HARMED_PROFILES)
def test_profiles_from_metadata_or_without_text_are_refused(tmp_path, message):
    chosen = report_samples.recipe(tmp_path, gate={"minimums": {}, "max_fallback_share": 0.2})
    keys = report_samples.run(chosen)
    store = Store(chosen.runtime.store)
    releases = Releases(store.root)
    [good] = releases.all()
    assert good.state == "published"
    assert {stage: (text.rows, text.from_metadata, text.empty) for stage, text in good.evidence.texts.items()} == {
        "profile_items": (24, 0, 0),
        "profile_users": (40, 0, 0),
    }
    assert good.evidence.reference is not None and good.evidence.reference.users == 40

    artifact = store.artifact("profile_users", keys["profile_users"])
    with store.draft(artifact.stage, artifact.key) as draft:
        table = pl.read_parquet(artifact.path / "profiles.parquet").with_columns(**HARMED_PROFILES[message])
        table.write_parquet(draft / "profiles.parquet")
        store.commit(draft, artifact.manifest.model_copy(update={"files": file_records(draft)}))
    shutil.rmtree(store.root / "replaced")
    shutil.rmtree(store.root / "releases")
    (store.root / "current").unlink()
    judged = releases.publish(releases.folder(good), chosen.gate)
    assert judged.summary == f"refused {judged.id}: {message}"


CUTOFFS = {"evaluate": {"cutoffs": [3, 20]}}
AT_3 = {"minimums": {}, "tolerances": {"recall@3": 0.05}}
NOISE = {"name": "l3ae", "prior": 100.0, "text_l2": 0.001, "whiten": 12}
"""Texts alone decide, and whitening makes all of their dimensions but the parity noise."""


def judged(chosen: Recipe):
    """The latest release of a whole run, and the evaluation's report."""
    keys, store = report_samples.run(chosen), Store(chosen.runtime.store)
    evaluated = store.artifact("evaluate", keys["evaluate"]).manifest.report
    return Releases(store.root).all()[0], EvaluationReport.model_validate(evaluated)


@pytest.mark.parametrize("reranker", [{}, {"rerank": {"name": "mmr"}}], ids=["as ranked", "reranked"])
def test_texts_that_make_a_model_worse_are_refused_until_the_gate_allows_them(tmp_path, reranker):
    more = CUTOFFS | {"train": {"backbone": NOISE, "dim": 8}} | reranker
    release, evaluated = judged(report_samples.recipe(tmp_path, gate=AT_3, **more))
    assert release.state == "refused" and Releases(tmp_path / "store").current() is None
    [failed] = release.decision.failures
    assert failed.name == "against the model without text: recall@3"
    assert failed.message.startswith(f"recall@3 {failed.value:.4f} < {failed.limit:.4f} (without text ")

    assert evaluated.reference is not None and release.evidence.reference is not None
    assert (failed.value, failed.other) == (evaluated.test["recall@3"], evaluated.reference["recall@3"])
    found = release.evidence.reference.metrics["recall@3"]
    assert (found.low, found.high) == pytest.approx(evaluated.significance["recall@3"].interval), "paired over users"

    allowed, _ = judged(report_samples.recipe(tmp_path, gate=AT_3 | {"reference": None}, **more))
    assert (allowed.id, allowed.state) == (release.id, "published")


def test_a_whole_run_is_compared_with_its_model_without_text_if_it_uses_texts(tmp_path):
    release, _ = judged(report_samples.recipe(tmp_path, gate=AT_3, **CUTOFFS))
    checks = {check.name: check for check in release.decision.checks}
    assert release.state == "published" and checks["against the model without text: recall@3"].passed

    plain = {"alignment": [], "epochs": 4, "eval_every": 2, "dim": 8}
    release, evaluated = judged(report_samples.recipe(tmp_path, gate=AT_3, train=plain, **CUTOFFS))
    assert evaluated.reference is None and release.evidence.reference is None
    assert not [check for check in release.decision.checks if "without text" in check.name]
