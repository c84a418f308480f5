"""Ranking losses over the scores of a step's users, positives and negatives."""

import torch
from torch import Tensor
from torch.nn import functional

from darec.common.interactions import Batch, Representations
from darec.common.registry import Registry
from darec.model import losses
from darec.model.softmax import log_sum_exp, mean_log_sum_exp
from darec.training.sampling import Sampler
from schemas.training import BPRConfig, SampledSoftmaxConfig, SoftmaxConfig

RANKING_LOSSES: Registry[Tensor] = Registry("ranking loss")
"""Functions of the section, the final representations, the batch and the sampler, with a scalar result."""


@RANKING_LOSSES.register(BPRConfig)
def _bpr(config: BPRConfig, final: Representations, batch: Batch, sampler: Sampler) -> Tensor:
    user, positive, negative = final.nodes.index_select(0, batch.nodes(final.n_users)).chunk(3)
    return losses.bpr(user, positive, negative, final.split)


@RANKING_LOSSES.register(SoftmaxConfig)
def _softmax(config: SoftmaxConfig, final: Representations, batch: Batch, sampler: Sampler) -> Tensor:
    user, positive, _ = final.nodes.index_select(0, batch.nodes(final.n_users)).chunk(3)
    user = user / config.temperature
    everyone = mean_log_sum_exp(user, final.item, split=final.split)
    means = [_scores(user, each, final) for each in _positives(config, final, batch, sampler, positive)]
    return everyone - torch.stack(means).mean()


@RANKING_LOSSES.register(SampledSoftmaxConfig)
def _sampled_softmax(config: SampledSoftmaxConfig, final: Representations, batch: Batch, sampler: Sampler) -> Tensor:
    user, positive, _ = final.nodes.index_select(0, batch.nodes(final.n_users)).chunk(3)
    user = user / config.temperature
    drawn, rows, columns = sampler.shared_negatives(batch.users, config.negatives)
    others = log_sum_exp(user, final.item[drawn], (rows, columns), final.split)
    scores = [_scores(user, each, final) for each in _positives(config, final, batch, sampler, positive)]
    return functional.softplus(others - torch.stack(scores)).mean()


def _positives(
    config: SoftmaxConfig | SampledSoftmaxConfig,
    final: Representations,
    batch: Batch,
    sampler: Sampler,
    own: Tensor,
) -> list[Tensor]:
    """The rows of the pairs' items, and of further train items of the users: each [b, d]."""
    drawn = (final.item[sampler.positives(batch.users)] for _ in range(config.positives - 1))
    return [own, *drawn]


def _scores(users: Tensor, items: Tensor, final: Representations) -> Tensor:
    return final.split.total((users * items).sum(-1))
