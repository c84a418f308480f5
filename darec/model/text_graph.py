"""Edges between nodes with similar texts: a frozen graph of items (FREEDOM, Zhou and Shen, MM 2023), and items that are
retrieved for users (ProMax, arXiv 2604.26231).
"""

import torch
from torch import Tensor
from torch.nn import functional

from darec.common.interactions import ItemLists, Pairs, Representations
from darec.model.propagation import Adjacency

_BLOCK_SCORES = 2**25  # cosines that are computed at once: 128 MB


def text_neighbours(item_text: Tensor, neighbours: int) -> Adjacency:
    """The graph in which an item is joined with the `neighbours` items of the most similar texts, [n, d_L].

    An edge joins two items if one of them is among the nearest of the other, and weighs 1 / sqrt(product of their
    degrees). Cosines of at most 0, such as those of an empty text, make no edge.
    """
    rows = functional.normalize(item_text.float(), dim=-1)
    n_items, count = len(rows), min(neighbours, len(rows) - 1)
    found = []
    for block in torch.arange(n_items, device=rows.device).split(max(1, _BLOCK_SCORES // n_items)):
        cosines = rows[block] @ rows.T
        cosines[torch.arange(len(block), device=rows.device), block] = -1
        found.append(_nearest(block, cosines, count))

    ends = torch.cat(found, 1)
    keys = torch.unique(torch.cat([ends[0] * n_items + ends[1], ends[1] * n_items + ends[0]]))
    first, second = keys // n_items, keys % n_items
    degrees = torch.bincount(first, minlength=n_items)
    starts = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)]).int()
    weights = (degrees[first] * degrees[second]).double().rsqrt().float()
    matrix = torch.sparse_csr_tensor(starts, second.int(), weights, (n_items, n_items), check_invariants=False)
    return Adjacency(matrix, keys[:0].int(), 0)  # its edges are never dropped


def retrieved_items(text: Representations, items: int, excluded: Pairs) -> Pairs:
    """The `items` items with the texts most similar to a user's text, for each user, without the pairs `excluded`.

    Cosines of at most 0, such as those of an empty text, make no pair.
    """
    users, rows = (functional.normalize(side.float(), dim=-1) for side in (text.user, text.item))
    known, count = ItemLists(excluded, len(users), len(rows)), min(items, len(rows))
    found = []
    for block in torch.arange(len(users), device=users.device).split(max(1, _BLOCK_SCORES // len(rows))):
        cosines = users[block] @ rows.T
        cosines[known.of(block)] = -1
        found.append(_nearest(block, cosines, count))
    return Pairs(*torch.cat(found, 1))


def _nearest(rows: Tensor, cosines: Tensor, count: int) -> Tensor:
    """(row, column) of the `count` largest cosines of each row, without those of at most 0: [b], [b, n] -> [2, e]."""
    best = cosines.topk(count)
    ends = torch.stack([rows.repeat_interleave(count), best.indices.flatten()])
    return ends[:, best.values.flatten() > 0]
