"""`darec bench refit`: the effect of training the released model on all interactions, on the following days.

The log is cut at several points in time. The interactions before a cut are split and trained on as in a run: the
evaluated model is trained on the train part, the refitted one on all interactions. Both then rank the items of the days
after the cut, without all earlier interactions of the user, so that they differ only in their training data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl
import torch

from benchmarks.tables import markdown
from darec.artifacts import files
from darec.common.errors import UserError
from darec.common.interactions import Interactions, Pairs, Representations
from darec.dataset.graph import edge_list
from darec.dataset.split import Split, split_interactions
from darec.evaluation.protocol import Scores, popularity, rank, score
from darec.evaluation.significance import interval
from darec.model.propagation import Adjacency
from darec.training import Trained, train
from schemas import columns as c
from schemas.recipe import Recipe
from schemas.tables import PARTS
from stages.walk import run

MODELS = ("popularity", "evaluated", "refitted", "refitted from evaluated")
_K, _DAY = 20, 86_400
_METRICS = (f"recall@{_K}", f"ndcg@{_K}")


@dataclass(frozen=True)
class Cut:
    """One point in time, and the accuracy of each model for the days after it."""

    known: int
    """Number of interactions before it, after the k-core."""
    epochs: int
    """The number of epochs chosen on validation."""
    users: pl.Series
    """External ids of the users with interactions in the days after it."""
    scores: dict[str, Scores]
    """The scores of these users by model, in this order."""


def measure(recipe: Recipe, shares: Sequence[float], days: float) -> Iterator[Cut]:
    """Cuts the recipe's interactions after each of `shares` of them, and evaluates the next `days`.

    The model does not use text, because profiles would have to be generated again for every cut.

    Raises:
        UserError: the interactions have no timestamps.
    """
    artifact = run(recipe, files.INTERACTIONS.stage)[-1].artifact
    assert artifact is not None
    log = files.INTERACTIONS.of(artifact)
    if log[c.TIMESTAMP].null_count():
        raise UserError("the interactions have no timestamps", where="data", hint="give data with timestamps")
    log = log.sort(c.TIMESTAMP, c.USER, c.ITEM)
    for share in shares:
        yield _cut(recipe, log, int(log[c.TIMESTAMP][int(share * (log.height - 1))]), days)


def _cut(recipe: Recipe, log: pl.DataFrame, moment: int, days: float) -> Cut:
    split = split_interactions(log.filter(pl.col(c.TIMESTAMP) <= moment), recipe.split)
    after = log.filter(pl.col(c.TIMESTAMP) > moment, pl.col(c.TIMESTAMP) <= moment + days * _DAY)
    future = Pairs.of_table(after.join(split.users, on=c.USER).join(split.items, on=c.ITEM))

    known = pl.concat([split.parts[part] for part in PARTS])
    everything, size = Pairs.of_table(known), (split.users.height, split.items.height)
    evaluated = _evaluated(recipe, split)
    refitted = {
        "refitted": _refitted(recipe, known, size, evaluated),
        "refitted from evaluated": _refitted(recipe, known, size, evaluated, warm=evaluated.state.get("embedding")),
    }
    models = {"popularity": popularity(everything, *size), "evaluated": evaluated.final} | refitted
    scores = {name: _scores_after(final, everything, future) for name, final in models.items()}
    ids = split.users.sort(c.USER_INDEX)[c.USER].gather(scores["evaluated"].users.tolist())

    return Cut(known.height, evaluated.best_epoch, ids, scores)


def _evaluated(recipe: Recipe, split: Split) -> Trained:
    train_part, val_part = (split.parts[part] for part in PARTS[:2])
    none = Pairs.of_table(train_part.clear())
    size = (split.users.height, split.items.height)
    data = Interactions(*size, Pairs.of_table(train_part), Pairs.of_table(val_part), none)
    edges = edge_list(train_part.lazy(), recipe.graph)
    return train(recipe.train.without_text(), data, adjacency=Adjacency.of_table(edges, *size))


def _refitted(
    recipe: Recipe, known: pl.DataFrame, size: tuple[int, int], evaluated: Trained, warm: torch.Tensor | None = None
) -> Representations:
    none = Pairs.of_table(known.clear())
    edges = edge_list(known.lazy(), recipe.graph)
    return train(
        recipe.train.without_text(),
        Interactions(*size, Pairs.of_table(known), none, none),
        adjacency=Adjacency.of_table(edges, *size),
        warm=warm,
        last_epoch=evaluated.best_epoch,
    ).final


def _scores_after(final: Representations, known: Pairs, future: Pairs) -> Scores:
    ranking = rank(final, known, future, _K)
    return score(ranking, future, len(final.item), (_K,), ("recall", "ndcg"))


def pooled(cuts: Sequence[Cut], model: str) -> Scores:
    """A model's scores of every user with interactions after a cut: means over the user's cuts."""
    parts = [cut.scores[model] for cut in cuts]
    values = {name: torch.cat([part.values[name] for part in parts]).numpy() for name in _METRICS}
    means = pl.DataFrame({c.USER: pl.concat([cut.users for cut in cuts])} | values).group_by(c.USER).mean().sort(c.USER)
    return Scores(torch.arange(means.height), {name: means[name].to_torch() for name in _METRICS})


def table(cuts: Sequence[Cut]) -> str:
    """Each cut's Recall@20, then means over users with 95% intervals of the paired differences, in Markdown."""
    head = ["interactions before", "users after", "epochs", *(f"R@{_K} {name}" for name in MODELS)]
    rows = [
        [f"{cut.known:,}", str(len(cut.scores["evaluated"].users)), str(cut.epochs)]
        + [f"{cut.scores[name].means()[_METRICS[0]]:.4f}" for name in MODELS]
        for cut in cuts
    ]
    everywhere = {name: pooled(cuts, name) for name in MODELS}
    users = str(len(everywhere["evaluated"].users))
    rows.append(
        ["all cuts, mean over users", users, "", *(f"{_mean(everywhere[name], _METRICS[0]):.4f}" for name in MODELS)]
    )

    return "\n".join([markdown(head, rows), *(_gains(everywhere, name) for name in MODELS[2:])])


def _mean(scores: Scores, metric: str) -> float:
    return scores.means()[metric]


def _gains(everywhere: dict[str, Scores], model: str) -> str:
    parts = []
    for metric in _METRICS:
        base, (low, high) = (
            _mean(everywhere["evaluated"], metric),
            interval(everywhere[model], everywhere["evaluated"], metric),
        )
        gain = _mean(everywhere[model], metric) - base
        parts.append(f"{metric} {gain:+.4f} ({gain / base:+.1%}; 95% interval {low:+.4f} to {high:+.4f})")

    return f"{model} minus evaluated: {'; '.join(parts)}\n"
