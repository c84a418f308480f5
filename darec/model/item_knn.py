"""Item-based nearest neighbours: an item is scored by its cosines with the items of the user's history."""

import numpy as np
import torch
from scipy import sparse

from darec.common.interactions import Pairs
from darec.model.item_weights import FactoredWeights

_BLOCK_SCORES = 1 << 25  # numbers of a block of items x all items: 128 MB


def nearest_items(train: Pairs, n_users: int, n_items: int, neighbours: int, shrink: float) -> FactoredWeights:
    """B_ij = |users of i and j| / (sqrt(|users of i| |users of j|) + shrink), where i is among the `neighbours` items
    with the greatest value for j; otherwise 0 (Sarwar et al., WWW 2001). It works on the CPU.
    """
    keys = train.keys(n_items).cpu().numpy()
    history = sparse.csr_array((np.ones(len(keys), np.float32), (keys // n_items, keys % n_items)), (n_users, n_items))
    by_item = history.T.tocsr()
    length = torch.from_numpy(by_item.sum(1)).sqrt()

    columns, values = [], []
    for block in torch.arange(n_items).split(max(1, _BLOCK_SCORES // n_items)):
        cosines = torch.from_numpy((by_item[block.numpy()] @ history).toarray())
        # An item without users is similar to none: its row is 0, whatever it is divided by.
        cosines.div_((length[block, None] * length).add_(shrink).clamp_min_(1e-12))
        cosines[torch.arange(len(block)), block] = 0
        best = cosines.topk(min(neighbours, n_items), sorted=False)
        columns.append(best.indices)
        values.append(best.values)

    near, cosine = torch.cat(columns), torch.cat(values)
    owners = torch.arange(n_items).repeat_interleave(near.shape[1])
    places = torch.stack([near.flatten(), owners])[:, cosine.flatten() > 0]
    weights = torch.sparse_coo_tensor(places, cosine[cosine > 0], (n_items, n_items), check_invariants=False).coalesce()
    nothing, device = torch.zeros(n_items, 0), train.users.device

    return FactoredWeights(nothing.to(device), nothing.to(device), weights.to_sparse_csr().to(device))
