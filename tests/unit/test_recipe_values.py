"""Values that cannot be right are refused when the recipe is read; a recipe that is accepted can be planned."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.common.recipes import configure, load_recipe
from darec.common.section_types import alternatives
from darec.evaluation.metrics import Catalogue
from darec.evaluation.report import report
from schemas.bench import BenchRecipe, TuneRecipe
from schemas.consistency import METRICS
from schemas.recipe import Recipe
from schemas.training import EvaluateConfig
from stages.plan import plan
from tests.checkerboard import checkerboard, parity_text
from tests.data import write_checkerboard

TEMPORAL = ["data.source=csv", "data.interactions=x.csv"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["evaluate.cutoffs=[0]"], ["evaluate.cutoffs.0", "greater than or equal to 1", "given: 0"]),
        (["evaluate.cutoffs=[-3]"], ["evaluate.cutoffs.0", "given: -3"]),
        (["evaluate.cutoffs=[1000000000]"], ["evaluate.cutoffs.0", "less than or equal to 10000"]),
        (["evaluate.cutoffs=[20, 20]"], ["evaluate.cutoffs", "ascending order and distinct", "given: [20, 20]"]),
        (["evaluate.cutoffs=[20, 5]"], ["evaluate.cutoffs", "ascending order"]),
        (["evaluate.cutoffs=[5]"], ["gate.tolerances: 'recall@20' is not computed", "evaluate.cutoffs are 5: add 20",
                                    "gate.minimums: 'coverage@20'"]),
        (["gate.minimums={recal@20: 0.1}"], ["gate.minimums", "'recal@20'", "did you mean 'recall@20'?"]),
        (["gate.tolerances={speed: 0.1}"], ["gate.tolerances", "'speed' is not computed", "the metrics are recall"]),
        (["gate.tolerances.recall@20=-5"], ["gate.tolerances.recall@20", "greater than or equal to 0", "given: -5"]),
        (["gate.tolerances.recall@20=1.5"], ["gate.tolerances.recall@20", "less than or equal to 1"]),
        *(([f"{section}.seed={value}"], [f"{section}.seed", f"given: {value}"])
          for section in ("train", "split", "export", "llm") for value in (10**30, 2**63, -1)),
        *(([f"train.{field}=1000000000000"], [f"train.{field}", "less than or equal to"])
          for field in ("dim", "epochs", "batch_size", "patience", "backbone.layers", "alignment.0.components",
                        "alignment.0.sample", "alignment.0.centres", "alignment.0.width", "alignment.0.propagate")),
        (["train.loss={name: sampled-softmax, negatives: 1000000000000}"], ["train.loss.negatives"]),
        (["train.loss={name: softmax, temperature: 0}"], ["train.loss.temperature"]),
        (["train.epochs=5", "train.min_epochs=6"], ["train: min_epochs 6 is more than epochs, 5"]),
        (["train.backbone={name: autocf, heads: 5}"], ["train: backbone.heads 5 must divide dim 32"]),
        (["train.ranking_weight=0", "train.alignment=[]"], ["train.ranking_weight", "no loss is left"]),
        (["train.ranking_weight=0", "train.alignment=[{name: kar}]"], ["no loss is left", "train.alignment"]),
        (["train.text.use=add", "train.scoring=cosine", "train.backbone.name=ease"],
         ["ease has a closed-form solution: set text.use to none, scoring to inner"]),
        (["data.dislike_below=3", "train.dislikes=avoid", "train.backbone.name=ease"], ["set dislikes to ignore"]),
        (["data.dislike_below=3", "train.dislikes=avoid", "train.backbone.name=autocf"], ["autocf does not use"]),
        (["train.backbone.name=gccf", "train.text.neighbours=5"], ["text.neighbours needs rows as wide", "gccf"]),
        (["train.backbone.name=ngcf", "train.alignment=[{name: retrieved-graph}]"], ["retrieved-graph needs rows"]),
        (["train.scoring=cosine", "train.fuse={graph: 16}"], ["fuse.graph", "set scoring to inner"]),
        (["graph.weighting=none", "train.backbone.name=gccf"], ["graph.weighting: the backbone gccf weights edges"]),
        (["data.repeats=sum", "graph.event_weights=log", "train.backbone.edge_keep=0.8",
          "train.backbone.edge_sampling=degree"], ["graph.event_weights: edge_sampling degree"]),
        (["train.backbone.edge_sampling=degree"], ["train.backbone: edge_sampling: degree needs edge_keep below 1"]),
        (["train.text.whitening=0.5"], ["train.text: whitening has no effect, because whiten is 0"]),
        (["train.backbone={name: l3ae, whitening: 0.5}"], ["train.backbone: whitening has no effect"]),
        (["train.fuse={components: 0}"], ["train.fuse: components and graph are 0", "or fuse to null"]),
        (["train.fuse.share=lots"], ["train.fuse.share: Input should be a valid number or 'auto' (given: \"lots\")"]),
        (["train.validation_users=-1"], ["validation_users: Input should be greater than or equal to 0 or 'auto'"]),
        (["data.interaction_columns.user=[1]"], ["user: Input should be a valid string or a valid integer"]),
        (["split.ratios=[0.9, 0.1, 0.0]"], ["ratios", "none of them 0"]),
        (TEMPORAL, ["split.strategy", "data.interaction_columns.timestamp"]),
        ([*TEMPORAL, "split.strategy=column"], ["split.strategy", "data.interaction_columns.split"]),
        (["llm.max_model_len=128", "profile_users.max_tokens=128"], ["profile_users.max_tokens: 128", "no room",
                                                                     "llm.max_model_len, 128"]),
        (['runtime.store="a\\0b"'], ["runtime.store", "NUL"]),
        (['profile_items.prompt="a\\0b"'], ["profile_items.prompt", "NUL"]),
        (["llm.timeout=1e300"], ["llm.timeout", "less than or equal to"]),
        (["runtime.keep_releases=0"], ["runtime.keep_releases", "given: 0"]),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused_at_once(settings, words):
    with pytest.raises(UserError) as caught:
        load_recipe(None, settings)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_backbone_of_one_loss_needs_no_ranking_loss():
    nothing = ["train.ranking_weight=0", "train.alignment=[]"]
    assert load_recipe(None, [*nothing, "train.backbone={name: autocf}"])
    assert load_recipe(None, [*nothing, "train.backbone={name: simgcl}"])


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (BenchRecipe, {"name": "../up"}, ["name", "pattern"]),
        (BenchRecipe, {"data": {"a/b": "c"}}, ["data.a/b", "pattern"]),
        (BenchRecipe, {"seeds": []}, ["seeds", "at least 1"]),
        (BenchRecipe, {"seeds": [10**30]}, ["seeds.0", "less than"]),
        (BenchRecipe, {"sweeps": [{"label": "K", "of": "x", "field": "l2", "values": []}]}, ["sweeps.0.values"]),
        (TuneRecipe, {"space": {"train.l2": {"kind": "float", "low": 2, "high": 1}}}, ["space.train.l2", "above high"]),
        (TuneRecipe, {"space": {"train.l2": {"kind": "float", "low": 0, "high": 1, "log": True}}}, ["logarithmic"]),
        (TuneRecipe, {"space": {"train.dim": {"kind": "int", "low": 1, "high": 9, "step": 0}}}, ["step"]),
        (TuneRecipe, {"space": {"train.dim": {"kind": "int", "low": 1, "high": 9, "step": 2, "log": True}}}, ["step"]),
        (TuneRecipe, {"space": {"train.dim": {"kind": "choice", "values": []}}}, ["values", "at least 1"]),
        (TuneRecipe, {"methods": {"../x": {}}}, ["methods", "pattern"]),
        (TuneRecipe, {"trials": 0}, ["trials"]),
    ],
)
def test_benchmarks_and_searches_are_checked_too(kind: type[BaseModel], values: dict[str, Any], words: list[str]):
    with pytest.raises(UserError) as caught:
        configure(kind, {"name": "t", "data": {"a": "b"}}, values, where="t")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_gate_knows_every_metric_that_is_measured(tmp_path: Path):
    interactions = checkerboard(tmp_path)
    text = parity_text(interactions)
    catalogue = Catalogue.of(interactions, text.item, torch.ones(interactions.n_items, 1, dtype=torch.bool))
    measured = report(text, None, interactions, EvaluateConfig(cutoffs=(3,)), catalogue).metrics["test"]
    assert set(measured) == {f"{name}@3" for name in METRICS}


def sections(annotation: Any) -> list[Any]:
    return [kind for kind in alternatives(annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]


def values_of(annotation: Any, field: FieldInfo | None = None) -> st.SearchStrategy[Any]:
    """Values of a field, allowed or almost: the ends of its range, and what lies beyond."""
    if kinds := sections(annotation):
        return st.one_of([section_of(kind) for kind in kinds])
    choices = []
    for kind in alternatives(annotation):
        origin = get_origin(kind)
        if origin is Literal:
            choices.append(st.sampled_from(get_args(kind)))
        elif origin is tuple:
            choices.append(st.lists(values_of(get_args(kind)[0]), max_size=3))
        elif origin is dict:
            choices.append(st.dictionaries(st.sampled_from(["recall@20", "ndcg@5", "hit@1", "x"]), st.floats(0, 1)))
        elif kind is bool:
            choices.append(st.booleans())
        elif kind is int or kind is float:
            ends = [
                getattr(each, name)
                for each in (field.metadata if field else ())
                for name, bound in (("ge", Ge), ("gt", Gt), ("le", Le), ("lt", Lt))
                if isinstance(each, bound)
            ]
            numbers = [kind(end) + step for end in ends for step in (0, 1, -1)]
            choices.append(st.sampled_from([*numbers, 0, 1, 2, 7, 10**6]).map(kind))
        elif kind is str:
            choices.append(
                st.sampled_from(["", "x", "a b", "\u202e", "prompts/item_profile.j2", "smollm2-135m-instruct"])
            )
        else:
            choices.append(st.sampled_from(["log.csv", "nowhere", ".", ""]) if kind is Path else st.none())
    return st.one_of(choices)  # fmt: skip


def section_of(kind: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """A table with a few of the section's fields."""
    fields = {name: values_of(field.annotation, field) for name, field in kind.model_fields.items()}
    tag = {name: fields.pop(name) for name in ("name", "kind") if name in fields}
    chosen = st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True) if fields else st.just([])
    return chosen.flatmap(lambda names: st.fixed_dictionaries({**tag, **{name: fields[name] for name in names}}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    write_checkerboard(folder)
    return folder


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=section_of(Recipe))
def test_a_recipe_that_is_accepted_is_planned_or_told(folder: Path, values: dict[str, Any]):
    data = {"data.source": "csv", "data.interactions": str(folder / "interactions.csv")}
    columns = {"data.interaction_columns.timestamp": "timestamp"}
    try:
        recipe = configure(Recipe, values, data, columns, {"runtime.store": str(folder / "store")}, where="t")
        steps = plan(recipe, Store(recipe.runtime.store))
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 3000
    else:
        assert [step.task.name for step in steps][-1] == (
            "vectors" if recipe.vectors else "lists" if recipe.lists else "publish"
        )
