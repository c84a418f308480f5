"""`darec bench dislikes`: the effect of dislikes in training and in lists.

The recipe's model without text is trained with each use of dislikes. Its lists are evaluated on test twice: unchanged,
and without the dislikes that were known at the end of train, as in a release. `later dislikes` are the pairs that users
disliked after train: the share of them that is in the first 20 positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.tables import markdown
from darec.artifacts import files
from darec.common.errors import UserError
from darec.common.interactions import Interactions, Pairs, Representations
from darec.evaluation.protocol import Scores, rank, score
from darec.evaluation.significance import interval
from darec.training import train
from schemas.recipe import Recipe
from schemas.training import TrainConfig
from stages.walk import run

USES = {"ignore": {"dislikes": "ignore"}, "avoid": {"dislikes": "avoid"}} | {
    f"prefer {share:g}": {"dislikes": "prefer", "dislike_share": share} for share in (0.1, 0.3, 0.5)
}
_K = 20


@dataclass(frozen=True)
class Found:
    """One use of dislikes, means over seeds."""

    plain: Scores
    """Metrics of lists without train items."""
    filtered: Scores
    """Metrics of lists without train items and dislikes known in train."""
    later: tuple[float, float]
    """Share of the later dislikes in the first positions, of plain and of filtered lists."""


def measure(recipe: Recipe, seeds: Sequence[int]) -> Iterator[tuple[str, Found]]:
    """Each use with its scores.

    Raises:
        UserError: the recipe names no dislikes.
    """
    if not recipe.data.has_dislikes:
        raise UserError("the recipe names no dislikes", where="data", hint="--set data.dislike_below=3")

    split = run(recipe, files.TRAIN_PART.stage)[-1].artifact
    assert split is not None
    size = (files.USER_VOCABULARY.of(split).height, files.ITEM_VOCABULARY.of(split).height)
    train_part, val, test = (
        Pairs.of_table(part.of(split)) for part in (files.TRAIN_PART, files.VAL_PART, files.TEST_PART)
    )
    known, everything = (Pairs.of_table(file.of(split)) for file in (files.TRAIN_DISLIKES, files.ALL_DISLIKES))
    data = Interactions(*size, train_part, val, test, known)

    for name, changes in USES.items():
        config = TrainConfig.model_validate(recipe.train.without_text().model_dump() | changes)
        found = [_found(config.model_copy(update={"seed": seed}), data, known, everything) for seed in seeds]
        yield (
            name,
            Found(
                _mean([each.plain for each in found]),
                _mean([each.filtered for each in found]),
                (sum(each.later[0] for each in found) / len(found), sum(each.later[1] for each in found) / len(found)),
            ),
        )


def _found(config: TrainConfig, data: Interactions, known: Pairs, everything: Pairs) -> Found:
    final = train(config, data).final
    later = ~torch.isin(_keys(everything, data.n_items), _keys(known, data.n_items))
    held_back = Pairs(everything.users[later], everything.items[later])
    left_out = data.train.joined(known)
    plain, filtered = (_scored(final, data, pairs) for pairs in (data.train, left_out))
    shares = [_share(final, data, pairs, held_back) for pairs in (data.train, left_out)]
    return Found(plain, filtered, (shares[0], shares[1]))


def _scored(final: Representations, data: Interactions, left_out: Pairs) -> Scores:
    return score(rank(final, left_out, data.test, _K), data.test, data.n_items, (_K,), ("recall", "ndcg"))


def _share(final: Representations, data: Interactions, left_out: Pairs, pairs: Pairs) -> float:
    """The number of `pairs` in the first positions of their users' lists."""
    ranking = rank(final, left_out, pairs, _K)
    firsts = (ranking.users[:, None] * data.n_items + ranking.top.long()).flatten()
    return float(torch.isin(_keys(pairs, data.n_items), firsts).double().mean())


def _keys(pairs: Pairs, n_items: int) -> Tensor:
    return pairs.users * n_items + pairs.items


def _mean(parts: Sequence[Scores]) -> Scores:
    """Each user's mean over seeds; the users are the same."""
    names = parts[0].values
    return Scores(parts[0].users, {name: torch.stack([part.values[name] for part in parts]).mean(0) for name in names})


def table(found: dict[str, Found]) -> str:
    """Every use, compared with ignoring dislikes in training and in lists, in Markdown."""
    base = found["ignore"].plain
    head = ["in training", "in lists", "R@20", "N@20", "R@20 minus ignore", "95% interval", "later dislikes"]
    rows = []
    for name, each in found.items():
        for lists, scores, later in zip(("stay", "left out"), (each.plain, each.filtered), each.later, strict=True):
            recall, ndcg = (scores.means()[f"{metric}@{_K}"] for metric in ("recall", "ndcg"))
            low, high = interval(scores, base, f"recall@{_K}")
            gap = recall - base.means()[f"recall@{_K}"]
            rows.append(
                [
                    name,
                    lists,
                    f"{recall:.4f}",
                    f"{ndcg:.4f}",
                    f"{gap:+.4f}",
                    f"{low:+.4f} to {high:+.4f}",
                    f"{later:.4f}",
                ]
            )

    return markdown(head, rows)
