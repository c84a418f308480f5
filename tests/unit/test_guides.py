"""The classes that the guides on extending show do what the guides say."""

import re
import typing
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pydantic
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from darec.alignment.base import Objective, Setting
from darec.common.errors import UserError
from darec.common.interactions import Batch, Pairs, Representations
from darec.common.recipes import load
from darec.common.registry import Registry
from darec.evaluation.metrics import Lists, UserMetric
from darec.evaluation.rerank import Reranker
from darec.model.base import Backbone
from darec.model.propagation import Adjacency, product
from schemas.rerank import MMRConfig
from schemas.section import Section

GUIDES = Path(__file__).parents[2] / "docs" / "extending"
PAIRS = Pairs(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]))
GRAPH = Adjacency.normalised(PAIRS, 2, 2)


def block_with(guide: str, words: str) -> str:
    """The code block of a guide that contains `words`."""
    text = (GUIDES / guide).read_text()
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    (block,) = (each for each in blocks if words in each)
    return re.sub(r"^    ", "", block, flags=re.MULTILINE)


def shown(guide: str, name: str, needed: Sequence[Any]) -> Any:
    """The class `name` that a guide shows, registered under a configuration class of its own."""
    registries = {each: Registry(each) for each in ("BACKBONES", "OBJECTIVES", "USER_METRICS", "RERANKERS")}
    names = {each.__name__: each for each in (Tensor, *needed)} | registries
    names |= {"torch": torch, "functional": functional, "MineConfig": SimpleNamespace, "ShuffleConfig": SimpleNamespace}
    exec(block_with(guide, f"class {name}("), names)
    return names[name]


def test_backbone():
    mine = shown("backbone.md", "Mine", [Backbone, Adjacency, product])(SimpleNamespace(), GRAPH, 2, 3)
    nodes = torch.rand(4, 3)
    torch.testing.assert_close(mine(nodes), nodes + GRAPH.matrix.to_dense() @ nodes)


def test_objective():
    text = Representations(torch.eye(4), 2)
    setting = SimpleNamespace(text=text, adjacency=GRAPH)
    mine = shown("objective.md", "Mine", [Objective, Setting, Representations, Batch])(
        SimpleNamespace(weight=2), setting
    )
    batch = SimpleNamespace(users=torch.tensor([0, 1]))
    assert mine(text, batch)["mine"] == 0
    assert mine(Representations(torch.eye(4).flip(0), 2), batch)["mine"] == 2
    torch.testing.assert_close(product(setting.adjacency, setting.text.nodes), GRAPH.matrix.to_dense())


def test_metric():
    metric = shown("metric.md", "AveragePrecision", [UserMetric, Lists])()
    hits = torch.tensor([[1.0, 0, 1], [0, 0, 0]]).double()
    lists = Lists(torch.arange(2), torch.zeros(2, 3).long(), hits, torch.tensor([2.0, 1]).double())
    assert metric.per_user(lists, 3).tolist() == [(1 + 2 / 3) / 2, 0]


def test_reranker():
    shuffle = shown("stage.md", "Shuffle", [Reranker])(SimpleNamespace(candidates=5, seed=0), {})
    items = torch.arange(6).expand(3, 6)
    scores = torch.tensor([3.0, 2, 1, 0, -torch.inf, -torch.inf]).expand(3, 6)
    found, _ = shuffle.rerank(items, scores, 4)
    assert found.sort().values.tolist() == [[0, 1, 2, 3]] * 3


class ShuffleConfig(Section):
    """A second reranker."""

    name: Literal["shuffle"] = "shuffle"
    seed: int = 0
    """Seed."""


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("rerank={name: x}", 'rerank.name: Input should be one of mmr, shuffle (given: "x")'),
        ("rerank={name: shuffle, sed: 1}", "rerank.sed: unknown key, did you mean 'seed'?"),
        ("rerank={weight: 2}", "rerank.weight: Input should be less than or equal to 1 (given: 2)"),
    ],
)
def test_errors_with_a_second_reranker(setting: str, message: str):
    names = dict(vars(typing), MMRConfig=MMRConfig, ShuffleConfig=ShuffleConfig, **vars(pydantic))
    exec(block_with("stage.md", "BeforeValidator("), names)
    recipe = pydantic.create_model("Two", __base__=Section, rerank=(names["RerankConfig"] | None, None))

    assert load(recipe, None, ["rerank={weight: 0.5}"]).rerank == MMRConfig(weight=0.5)
    with pytest.raises(UserError) as caught:
        load(recipe, None, [setting])
    assert str(caught.value).startswith(f"{message} [--set]")
