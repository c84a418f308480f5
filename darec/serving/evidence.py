"""Evidence for the gate besides the report of a bundle: comparisons on the same test, and facts about the profiles."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import polars as pl

from darec.artifacts import files
from darec.artifacts.formats import Vectors
from darec.artifacts.lineage import latest_by_stage
from darec.artifacts.store import Artifact, Store
from darec.common.errors import DarecError
from darec.common.hashing import digest
from darec.evaluation.rerank import Reranker
from darec.serving.bundle import read_report
from darec.serving.comparison import ChallengerRun, Model
from darec.serving.index import Floats
from schemas import columns as c
from schemas.release import Comparison, Evidence, GateConfig, Release, TextReport
from schemas.training import EvaluateConfig

REFERENCE = "reference"
_PROFILES = ("profile_items", "profile_users")
_USERS, _USERS_EACH = 10_000, 2_000  # maximum number of test users: for the current release, and for each earlier one


def gather(
    store: Store,
    bundle: Artifact,
    production: Release | None,
    earlier: Sequence[Release],
    gate: GateConfig,
    evaluate: EvaluateConfig,
) -> Evidence:
    """Collects the evidence for an intact bundle. What is not available is left out, and `why_not` says why.

    Args:
        store: The store with all artifacts.
        bundle: The export artifact that the gate checks.
        production: The current release.
        earlier: Releases that `gate.floor` compares with.
        gate: The metrics to compare.
        evaluate: Protocol and device.
    """
    made_from = latest_by_stage(store, bundle)
    texts = {stage: _texts(made_from[stage]) for stage in _PROFILES if stage in made_from and _whole(made_from[stage])}
    try:
        split = _input(store, bundle, "split")
        challenger_run = _challenger_run(store, bundle, split)
    except DarecError as error:
        return Evidence(why_not=error.what, texts=texts)

    held_out = digest(split.manifest.fingerprint["config"])

    def against(model: Model, users: int) -> Comparison:
        found = challenger_run.compare(model, gate.tolerances, evaluate, users)
        if found is None:
            raise DarecError("it has no test interaction of this run" if gate.tolerances else "no metric is compared")
        return found

    current, why_not = None, ""
    if production:
        try:
            current = against(_released(store, production, held_out), _USERS)
        except DarecError as error:
            why_not = error.what

    best = []
    for release in earlier:
        with suppress(DarecError):  # a missing, damaged or non-finite one cannot be rolled back to either
            best.append(against(_released(store, release, held_out), _USERS_EACH))

    reference = None
    with suppress(DarecError):
        reference = against(_reference(made_from, split, challenger_run.challenger.reranker), _USERS)
    return Evidence(
        current=current, why_not=why_not, best=tuple(best), reference=reference, texts=texts, split=held_out
    )


def _challenger_run(store: Store, bundle: Artifact, split: Artifact) -> ChallengerRun:
    model = _evaluated_model(store, "challenger", bundle)
    return ChallengerRun(model, files.TRAIN_PART.of(split), files.TEST_PART.of(split))


def _evaluated_model(store: Store, name: str, bundle: Artifact, train: pl.LazyFrame | None = None) -> Model:
    """The model of a bundle that was trained on the train part of its run only.

    The vectors of a refitted bundle may have been trained on the test interactions of this run, so they are not
    compared.

    Raises:
        DarecError: the bundle is refitted, and the vectors of the evaluated model have been removed.
    """
    served = Model.of_bundle(name, bundle.path, train)
    if read_report(bundle.path).trained_on == "train":
        return served
    judged = files.EMBEDDINGS.of(_input(store, bundle, "train"))
    users, items = _by_id(judged, _input(store, bundle, "split"))
    return replace(served, users=users, items=items)


def _released(store: Store, release: Release, held_out: str) -> Model:
    """Raises DarecError if the release's bundle is incomplete, or if it may have been trained on this test."""
    bundle = Artifact(store.root / release.artifact)
    if trouble := bundle.damage(checksums=True):
        raise DarecError(f"the bundle of {release.id} is damaged ({trouble})")

    try:
        train = pl.scan_parquet(_input(store, bundle, "split").file(files.TRAIN_PART.name), glob=False)
    except DarecError:
        if release.evidence.split != held_out:
            what = f"the interactions of {release.id} have been removed, and its split may differ"
            raise DarecError(what) from None
        train = None  # with equal settings the last interactions of a user are held out in both runs

    return _evaluated_model(store, release.id, bundle, train)


def _reference(made_from: dict[str, Artifact], split: Artifact, reranker: Reranker | None) -> Model:
    """The model without text, reranked as the new model is; its numbers are those of the split.

    Raises DarecError if there is none.
    """
    trained = made_from.get("train_reference")
    if trained is None or not _whole(trained):
        raise DarecError("there is no model without text")
    users, items = _by_id(files.REFERENCE_EMBEDDINGS.of(trained), split)
    return Model(REFERENCE, users, items, reranker=reranker)


def _by_id(vectors: Vectors, split: Artifact) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """Users and items with their vectors, which have the numbers of `split`."""

    def side(vocabulary: pl.DataFrame, number: str, rows: Floats) -> pl.LazyFrame:
        column = pl.Series(c.VECTOR, rows, dtype=pl.Array(pl.Float32, rows.shape[1]))
        return vocabulary.sort(number).drop(number).with_columns(column).lazy()

    users = side(files.USER_VOCABULARY.of(split), c.USER_INDEX, vectors.user)
    return users, side(files.ITEM_VOCABULARY.of(split), c.ITEM_INDEX, vectors.item)


def _texts(profiles: Artifact) -> TextReport:
    blank = pl.col(c.PROFILE).is_null() | (pl.col(c.PROFILE).str.strip_chars() == "")
    counts = pl.scan_parquet(profiles.file(files.USER_PROFILES.name), glob=False).select(
        rows=pl.len(), from_metadata=(pl.col(c.SOURCE) == "metadata").sum(), empty=blank.sum()
    )
    return TextReport(**counts.collect().row(0, named=True))


def _input(store: Store, artifact: Artifact, stage: str) -> Artifact:
    """The input artifact from a stage. Raises DarecError if it is no longer in the store."""
    record = artifact.manifest.inputs.get(stage)
    found = store.input(stage, record) if record else None
    if record is None or found is None or not found.matches(record) or not _whole(found):
        raise DarecError(f"the input {stage} of {artifact.stage} {artifact.key} is not in the store")
    return found


def _whole(artifact: Artifact) -> bool:
    try:
        return artifact.damage(checksums=True) is None
    except DarecError:
        return False
