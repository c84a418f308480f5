"""Appends columns to trained ones. Inner products add up, so ranking uses both parts and training only its own.

A node's row becomes [e, sqrt(f) t], where e is the trained row and t the unit text row propagated over the train graph,
or the row of a graph filter. The factor f is the share times the ratio of the standard deviations of both scores, so
that a share has the same meaning for any model.
"""

import logging
from dataclasses import replace

import polars as pl
import torch
from torch import Tensor

from darec.common.interactions import Interactions, ItemLists, Pairs, Representations
from darec.evaluation.protocol import Ranking, score
from darec.model import closed_form
from darec.model.cold_start import deviation
from darec.model.whitening import propagated
from schemas.backbones import GraphFilterConfig
from schemas.training import FuseConfig

_logger = logging.getLogger(__name__)

SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
"""The candidates of `auto`."""
UNJUDGED = 0.1
"""The value of `auto` without validation pairs."""
NAME = "fuse/share"
"""The row of a training history with the share, so that a refit uses the share that validation chose."""

_K, _MOST_USERS = 20, 30_000  # many users are ranked, because recalls differ by only one or two percent
_BLOCK, _MOST_SCORES = 512, 2**25  # number of users, and of their scores, at once: 128 MB


def fuse(
    config: FuseConfig,
    final: Representations,
    text: Representations | None,
    interactions: Interactions,
    share: float | None = None,
) -> tuple[Representations, float | None]:
    """`final` [N, d] with the columns of the graph filter and of the texts, and the share of the texts.

    With a share of 0 there are no text columns. Where none are configured, the share is None.

    Args:
        config: the columns, and how the share of the texts is chosen.
        final: trained rows.
        text: text vectors of all nodes, [N, d_L]. Required if `config.components` is above 0.
        interactions: the train graph, and the validation pairs that choose the share.
        share: takes this one in place of the configuration's.
    """
    if config.graph:
        final = _joined(final, _scaled(_graph_rows(config, interactions), final), config.graph_share)
    if not config.components or text is None:
        return final, None

    beside = _scaled(propagated(text, interactions, config.components, config.propagate), final)
    if share is None:
        share = _best_share(final, beside, interactions) if config.share == "auto" else config.share
    return _joined(final, beside, share), share


def _graph_rows(config: FuseConfig, interactions: Interactions) -> Representations:
    """The vectors of the graph filter, from a separate random generator, so that they are the same for any model and
    seed.
    """
    device = interactions.train.users.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        return closed_form.fit(GraphFilterConfig(), interactions, None, config.graph)


def _scaled(rows: Representations, final: Representations) -> Representations:
    """Scales the rows so that their scores have the standard deviation of those of `final`."""
    ratio = score_deviation(final) / max(score_deviation(rows), 1e-12)
    return replace(rows, nodes=ratio**0.5 * rows.nodes)


def _joined(final: Representations, beside: Representations, share: float) -> Representations:
    """Concatenates both rows, with `share` of the scores of `beside`."""
    if not share:
        return final
    return replace(final, nodes=torch.cat([final.nodes, share**0.5 * beside.nodes], 1))


def score_deviation(rows: Representations) -> float:
    """Standard deviation of the scores of all users and items."""
    return deviation(rows.user, rows.item)


def share_of(history: pl.DataFrame) -> float | None:
    """The share that a training run chose, by its history; None if it fused nothing."""
    chosen = history.filter(name=NAME)["value"]
    return float(chosen[-1]) if len(chosen) else None


def _best_share(final: Representations, beside: Representations, interactions: Interactions) -> float:
    """The share with the best validation Recall@20, the smallest of equal ones, on at most 30,000 users."""
    held_out = interactions.val
    if not len(held_out):
        return UNJUDGED
    users = torch.unique(held_out.users)
    users = users[:: -(-len(users) // _MOST_USERS)]
    tops = _first_places(final, beside, interactions, users)

    part = Pairs(*(side[torch.isin(held_out.users, users)] for side in (held_out.users, held_out.items)))
    name = f"recall@{_K}"
    recalls = [score(Ranking(users, top), part, interactions.n_items, (_K,), ("recall",)).means()[name] for top in tops]
    share = SHARES[recalls.index(max(recalls))]
    _logger.info("text columns have %.0f%% of the scores' spread: validation Recall@20 %.4f", 100 * share, max(recalls))
    return share


def _first_places(
    final: Representations, beside: Representations, interactions: Interactions, users: Tensor
) -> list[Tensor]:
    """The top items of each user for each of `SHARES`, int64 [users, k]; both scores are computed once."""
    seen = ItemLists(interactions.train, interactions.n_users, interactions.n_items)
    tops = [[] for _ in SHARES]
    for block in users.split(min(_BLOCK, max(1, _MOST_SCORES // interactions.n_items))):
        scores, added = (rows.user[block] @ rows.item.T for rows in (final, beside))
        scores[seen.of(block)] = -torch.inf
        for top, share in zip(tops, SHARES, strict=True):
            top.append(torch.add(scores, added, alpha=share).topk(min(_K, interactions.n_items)).indices)
    return [torch.cat(top) for top in tops]
