"""Text columns beside the trained ones: their spread, the share that validation chooses, cold items, and refits."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from darec.artifacts import files
from darec.artifacts.files import File
from darec.artifacts.formats import Vectors
from darec.common.interactions import Interactions, Pairs, Representations
from darec.dataset.graph import edge_list
from darec.model.whitening import propagated
from darec.training import fusing, train
from schemas import columns as c
from schemas.recipe import Recipe
from schemas.training import FuseConfig, TrainConfig
from stages import refit
from stages import train as training_stage
from stages.contract import StageContext
from tests.checkerboard import checkerboard, parity_text

QUICK = {"dim": 8, "epochs": 4, "eval_every": 2, "batch_size": 128, "learning_rate": 0.05, "device": "cpu"}
PLAIN = TrainConfig(alignment=(), cold_start="none", **QUICK)
FUSED = PLAIN.model_copy(update={"fuse": FuseConfig(share=0.5, components=6, propagate=2)})


@pytest.fixture
def data(tmp_path: Path) -> Interactions:
    return checkerboard(tmp_path)


def test_the_deviation_of_scores_is_that_of_the_whole_matrix() -> None:
    torch.manual_seed(0)
    rows = Representations(torch.randn(30, 5) + 0.7, 12)
    assert fusing.score_deviation(rows) == pytest.approx(float((rows.user @ rows.item.T).std(correction=0)), rel=1e-5)
    constant = Representations(torch.ones(9, 2), 4)
    assert fusing.score_deviation(constant) == 0


def test_scores_add_up_and_training_sees_nothing_of_the_text(data: Interactions) -> None:
    text = parity_text(data)
    plain, fused = (train(config, data, text).final for config in (PLAIN, FUSED))
    assert torch.equal(fused.nodes[:, :8], plain.nodes)
    assert fused.nodes.shape == (data.n_nodes, 8 + 6)

    beside = Representations(fused.nodes[:, 8:], data.n_users)
    assert fusing.score_deviation(beside) == pytest.approx(0.5 * fusing.score_deviation(plain), rel=1e-4)
    rows = propagated(text, data, 6, 2).nodes
    assert torch.allclose(torch.nn.functional.normalize(beside.nodes, dim=1), rows, atol=1e-5)


def test_the_share_is_the_best_on_validation_by_hand(data: Interactions) -> None:
    torch.manual_seed(1)
    final, text = Representations(torch.randn(data.n_nodes, 8), data.n_users), parity_text(data, noise=0.5)
    _, chosen = fusing.fuse(FuseConfig(components=6, propagate=1), final, text, data)

    def recall(share: float) -> float:
        nodes, _ = fusing.fuse(FuseConfig(components=6, propagate=1, share=share), final, text, data)
        scores = (nodes.user @ nodes.item.T).double()
        scores[data.train.users, data.train.items] = -torch.inf
        top = scores.topk(20).indices
        return (top[data.val.users] == data.val.items[:, None]).any(1).double().mean().item()

    recalls = {share: recall(share) for share in fusing.SHARES}
    assert chosen == max(recalls, key=lambda share: (recalls[share], -share))
    assert chosen is not None and recalls[chosen] > recalls[0.0], "otherwise this test shows nothing"


def test_text_that_only_harms_adds_no_column(data: Interactions) -> None:
    perfect = torch.zeros(data.n_nodes, 2)
    perfect[torch.arange(data.n_nodes), torch.cat([torch.arange(data.n_users), torch.arange(data.n_items)]) % 2] = 1
    noise = Representations(torch.randn(data.n_nodes, 12), data.n_users)
    final, share = fusing.fuse(FuseConfig(propagate=0), Representations(perfect, data.n_users), noise, data)
    assert share == 0
    assert torch.equal(final.nodes, perfect)


def test_without_validation_and_with_a_given_share_nothing_is_chosen(data: Interactions) -> None:
    none = Pairs(data.val.users[:0], data.val.items[:0])
    everything = Interactions(data.n_users, data.n_items, data.train, none, none)
    auto = PLAIN.model_copy(update={"fuse": FuseConfig()})
    text = parity_text(data)
    assert train(auto, everything, text).text_share == fusing.UNJUDGED
    again = train(auto, everything, text, text_share=0.4)
    assert again.text_share == fusing.share_of(again.history) == 0.4
    assert train(auto, everything, text, text_share=0.0).final.dim == 8
    assert fusing.share_of(train(PLAIN, data).history) is None


def test_graph_columns_need_no_text_and_stay_in_the_reference(data: Interactions) -> None:
    config = PLAIN.model_copy(update={"fuse": FuseConfig(components=0, graph=5, graph_share=0.3)})
    assert not config.needs_text
    plain, fused = train(PLAIN, data), train(config, data)
    assert torch.equal(fused.final.nodes[:, :8], plain.final.nodes)
    assert fused.text_share is None

    beside = Representations(fused.final.nodes[:, 8:], data.n_users)
    assert beside.dim == 5
    assert fusing.score_deviation(beside) == pytest.approx(0.3 * fusing.score_deviation(plain.final), rel=1e-4)
    scores = (fused.final.user @ fused.final.item.T).double()
    scores[data.train.users, data.train.items] = -torch.inf
    found = (scores.topk(20).indices[data.val.users] == data.val.items[:, None]).any(1).double().mean()
    assert fused.validation["recall@20"] == pytest.approx(float(found)), "validation is that of the fused vectors"

    all_columns = FuseConfig(share=0.5, components=6, graph=5, graph_share=0.3)
    both = config.model_copy(update={"fuse": all_columns})
    assert train(both, data, parity_text(data)).final.dim == 8 + 5 + 6
    assert both.without_text().fuse == all_columns.model_copy(update={"components": 0})


def test_rows_of_cosine_scores_stay_of_length_1(data: Interactions) -> None:
    cosine = FUSED.model_copy(update={"scoring": "cosine"})
    final = train(cosine, data, parity_text(data)).final
    assert torch.allclose(final.nodes.norm(dim=1), torch.ones(data.n_nodes), atol=1e-5)


def test_an_item_without_interactions_is_found_by_its_text(data: Interactions) -> None:
    kept = data.train.items >= 4
    held = Interactions(
        data.n_users, data.n_items, Pairs(data.train.users[kept], data.train.items[kept]), data.val, data.test
    )
    told_by = FuseConfig(share=0.5, components=1, propagate=2)  # one component tells even from odd
    predicted = PLAIN.model_copy(update={"cold_start": "ridge", "fuse": told_by})
    final = train(predicted, held, parity_text(data)).final
    scores = final.user[:, 8:] @ final.item[:4, 8:].T
    same = (torch.arange(data.n_users)[:, None] - torch.arange(4)) % 2 == 0
    assert scores[same].min() > scores[~same].max()


def test_a_closed_form_may_have_text_columns_too(data: Interactions) -> None:
    config = TrainConfig.model_validate({"backbone": {"name": "ease"}, "dim": 8, "fuse": {"share": 0.2}})
    trained = train(config, data, parity_text(data))
    assert trained.final.dim == 8 + 12
    assert trained.validation["recall@20"] > 0


def test_the_reference_has_no_text_columns_and_old_keys_stay() -> None:
    assert FUSED.needs_text and not FUSED.without_text().needs_text
    assert FUSED.without_text() == PLAIN.without_text()


def test_a_refit_takes_the_share_that_the_judged_model_chose(data: Interactions, tmp_path: Path) -> None:
    recipe = Recipe.model_validate({"train": PLAIN.model_dump() | {"fuse": {"components": 4}, "refit": "all"}})
    judged = run_stage(training_stage.run, recipe, data, tmp_path / "judged", {})
    history = tmp_path / "judged" / files.HISTORY.name
    share = judged.report.text_share
    assert share in fusing.SHARES
    changed = pl.read_parquet(history).with_columns(
        pl.when(name=fusing.NAME).then(0.35).otherwise("value").alias("value")
    )
    changed.write_parquet(history)

    refitted = run_stage(refit.run, recipe, data, tmp_path / "refit", {(files.HISTORY): history})
    assert refitted.report.text_share == 0.35
    vectors = files.REFIT_EMBEDDINGS.format.read(tmp_path / "refit" / files.REFIT_EMBEDDINGS.name)
    assert vectors.item.shape == (data.n_items, 8 + 4)


def run_stage(body, recipe: Recipe, data: Interactions, out: Path, given: dict[File, Path]):
    """Runs the body of a training stage on these interactions and the parity texts."""
    inputs = out.parent / "inputs"
    inputs.mkdir(exist_ok=True)
    out.mkdir()
    text = parity_text(data)
    parts = {
        files.TRAIN_PART: part_table(data.train),
        files.VAL_PART: part_table(data.val),
        files.TEST_PART: part_table(data.test),
        files.USER_VOCABULARY: vocabulary("user", data.n_users),
        files.ITEM_VOCABULARY: vocabulary("item", data.n_items),
        files.EDGES: edge_list(part_table(data.train).lazy(), recipe.graph),
        files.TEXT_VECTORS: Vectors(text.user.numpy(), text.item.numpy()),
    }
    for file, content in parts.items():
        file.format.write(content, inputs / file.name)
    paths = {(file.stage, file.name): inputs / file.name for file in parts}
    paths |= {(file.stage, file.name): path for file, path in given.items()}
    sections = {"train": recipe.train, "graph": recipe.graph}
    return body(StageContext(recipe, paths, out, out, out, sections))


def part_table(pairs: Pairs) -> pl.DataFrame:
    columns = {c.USER_INDEX: pairs.users.int().numpy(), c.ITEM_INDEX: pairs.items.int().numpy()}
    return pl.DataFrame(columns).with_columns(
        pl.lit(None, pl.Float32).alias(c.RATING), pl.lit(None, pl.Int64).alias(c.TIMESTAMP)
    )


def vocabulary(side: str, size: int) -> pl.DataFrame:
    names = {"user": (c.USER_INDEX, c.USER), "item": (c.ITEM_INDEX, c.ITEM)}[side]
    return pl.DataFrame({names[0]: np.arange(size, dtype=np.int32), names[1]: [f"{side}{n}" for n in range(size)]})
