"""Models that are computed instead of trained: ridge regressions between items, alternating least squares, nearest
neighbours, graph filters.

One file each. `fit` returns their vectors, which are evaluated, indexed and released like those of any backbone.
"""

import logging

import torch

from darec.common.errors import UserError
from darec.common.interactions import Interactions, Representations
from darec.common.registry import Registry
from darec.model.factorisation import factorise
from darec.model.gf_cf import graph_filter
from darec.model.ials import alternating_least_squares
from darec.model.item_knn import nearest_items
from darec.model.item_weights import (
    ItemWeights,
    SumOfWeights,
    history_matrix,
    score_deviation,
    top_unseen,
)
from darec.model.neighbours import neighbour_weights
from darec.model.ridge import ease, ease_with_text_rows, l3ae, text_prior
from darec.model.whitening import whiten
from schemas.backbones import (
    ClosedFormConfig,
    EASEConfig,
    GraphFilterConfig,
    IALSConfig,
    ItemKNNConfig,
    ItemModelConfig,
    L3AEConfig,
    PopularityConfig,
)

__all__ = ["ItemWeights", "fit", "item_weights", "text_rows_weights", "top_unseen"]

_logger = logging.getLogger(__name__)

CLOSED_FORMS: Registry[Representations] = Registry("closed form")
"""Functions of the section, the interactions, the text vectors (if any), and the width of the result."""

_MOST_TEXT_ROWS_ITEMS = 30_000  # three float32 matrices of items x items: 11 GB


def fit(
    config: ClosedFormConfig, interactions: Interactions, text: Representations | None, dim: int
) -> Representations:
    """Vectors of width `dim` of the model that `config` names; random numbers come from torch's global generator.

    Raises:
        UserError: the model needs text and there is none.
    """
    return CLOSED_FORMS.build(config, interactions, text, dim)


@CLOSED_FORMS.register(IALSConfig)
def _ials(config: IALSConfig, data: Interactions, _: Representations | None, dim: int) -> Representations:
    rows = data.train, data.n_users, data.n_items
    return alternating_least_squares(*rows, dim, config.sweeps, config.l2, config.unobserved)


@CLOSED_FORMS.register(ItemKNNConfig)
def _item_knn(config: ItemKNNConfig, data: Interactions, _: Representations | None, dim: int) -> Representations:
    rows = data.train, data.n_users, data.n_items
    return factorise(*rows, nearest_items(*rows, config.neighbours, config.shrink), dim)


@CLOSED_FORMS.register(PopularityConfig)
def _popularity(_: PopularityConfig, data: Interactions, __: Representations | None, dim: int) -> Representations:
    """The first column holds 1 for a user and the share of the most popular item's interactions for an item."""
    counts = torch.bincount(data.train.items, minlength=data.n_items).float()
    nodes = counts.new_zeros(data.n_nodes, dim)
    nodes[: data.n_users, 0] = 1
    nodes[data.n_users :, 0] = counts / counts.max().clamp_min(1)
    return Representations(nodes, data.n_users)


@CLOSED_FORMS.register(GraphFilterConfig)
def _graph_filter(
    config: GraphFilterConfig, data: Interactions, _: Representations | None, dim: int
) -> Representations:
    rows = data.train, data.n_users, data.n_items
    return factorise(*rows, graph_filter(*rows, config.components, config.ideal, config.sharpen), dim)


@CLOSED_FORMS.register(EASEConfig)
@CLOSED_FORMS.register(L3AEConfig)
def _item_model(config: ItemModelConfig, data: Interactions, text: Representations | None, dim: int) -> Representations:
    return factorise(data.train, data.n_users, data.n_items, item_weights(config, data, text), dim)


def item_weights(config: ItemModelConfig, interactions: Interactions, text: Representations | None) -> ItemWeights:
    """Item-to-item weights of the model that `config` names.

    Raises:
        UserError: the model needs text and there is none.
    """
    size = interactions.train, interactions.n_users, interactions.n_items
    prior = None
    if isinstance(config, L3AEConfig):
        if text is None:
            raise UserError(
                "text vectors are required", where="train.backbone", hint="use ease, which does not use text"
            )
        item_text = whiten(text, config.whiten, config.whitening).item if config.whiten else text.item
        prior = text_prior(item_text, config.text_l2, config.prior)

    if interactions.n_items > config.exact_up_to:
        weights: ItemWeights = neighbour_weights(*size, config.l2, config.neighbours, prior)
    else:
        weights = l3ae(*size, config.l2, prior) if prior else ease(*size, config.l2)

    return _with_graph(weights, interactions, config.graph) if config.graph else weights


def _with_graph(weights: ItemWeights, interactions: Interactions, share: float) -> SumOfWeights:
    """The weights plus a graph filter, whose scores are scaled to `share` times the standard deviation of theirs."""
    size, defaults = (interactions.train, interactions.n_users, interactions.n_items), GraphFilterConfig()
    graph, history = graph_filter(*size, defaults.components, defaults.ideal), history_matrix(*size)
    ratio = score_deviation(weights, history) / max(score_deviation(graph, history), 1e-12)
    return SumOfWeights(weights, graph, share * ratio)


def text_rows_weights(
    interactions: Interactions, text: Representations, l2: float, weight: float, whitened: int
) -> ItemWeights:
    """EASE with the texts as additional rows; `whitened` is 0 or the number of principal components of the texts.

    A catalogue that is too large for a matrix of items x items gets the approximation of L3AE, with its own penalties.
    """
    if interactions.n_items > _MOST_TEXT_ROWS_ITEMS:
        _logger.info("linear-teacher: %s items, so the teacher is l3ae's approximation", f"{interactions.n_items:,}")
        return item_weights(L3AEConfig(whiten=whitened, exact_up_to=_MOST_TEXT_ROWS_ITEMS), interactions, text)
    item_text = whiten(text, whitened).item if whitened else text.item
    return ease_with_text_rows(interactions.train, interactions.n_users, item_text, l2, weight)
