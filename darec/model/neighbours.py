"""The regressions of `darec.model.ridge` for large catalogues: each item is regressed on the few items that predict it
best.

Instead of inverting a matrix of items x items, item j is regressed on its m neighbours only; every other weight comes
from the texts, or is 0. With m = n_items - 1 the result is exact. Regressing an item on chosen neighbours is fsSLIM
(Ning and Karypis, ICDM 2011); with the ridge penalty of EASE each item's weights are one small linear system.
"""

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from darec.common.interactions import Pairs
from darec.model.item_weights import FactoredWeights
from darec.model.ridge import TextPrior

_BLOCK_SCORES = 1 << 25  # size of a block of items x all items: 128 MB
_BLOCK_ENTRIES = 1 << 23  # number of entries of X'X that are looked up at once
_KEPT = 4  # number of entries of X'X that are kept per item and neighbour


def neighbour_weights(
    train: Pairs, n_users: int, n_items: int, l2: float, neighbours: int, prior: TextPrior | None
) -> FactoredWeights:
    """B = C + S: C from the texts (0 without), and the corrections S of the m neighbours N of each item j.

    With r = x_j - X c_j what the texts leave unexplained, s minimises |r - X_N s|^2 + l2 |s|^2. Half the gradient is
    (G_NN + l2 I) s - X_N' r with G = X'X, so they solve (G_NN + l2 I) s = (G - G C)_Nj. With a single neighbour i,
    s = X_i' r / (G_ii + l2), and the minimum is (X_i' r)^2 / (G_ii + l2) below |r|^2: the neighbours are the items with
    the largest (G - G C)_ij^2 / (G_ii + l2). An entry of G is kept if it is among the `4 m` largest by the same measure
    for either of its items; the others are treated as 0 in G_NN, but not in (G - G C)_Nj.

    Memory: about 32 bytes for each of n_items x 4 m entries. It runs on the CPU.
    """
    history = _history(train, n_users, n_items)
    if prior is None:
        nothing = torch.zeros(n_items, 0)
        prior = TextPrior(nothing, nothing)

    prior = TextPrior(prior.left.cpu(), prior.right.cpu())
    chosen, targets, gram = _neighbourhoods(history, n_items, l2, min(neighbours, n_items - 1), prior)
    corrections = torch.cat([_solve(gram, chosen[batch], targets[batch], l2) for batch in _batches(gram, chosen)])
    sparse_part = _sparse(chosen, corrections, prior.diagonal)
    device = train.users.device

    return FactoredWeights(prior.left.to(device), prior.right.to(device), sparse_part.to(device))


def _history(train: Pairs, n_users: int, n_items: int) -> sparse.csr_array:
    """X [n_users, n_items], 1 at each distinct train pair."""
    keys = train.keys(n_items).cpu().numpy()
    users, items = keys // n_items, keys % n_items
    return sparse.csr_array((np.ones(len(keys), np.float32), (users, items)), shape=(n_users, n_items))


def _neighbourhoods(
    history: sparse.csr_array, n_items: int, l2: float, count: int, prior: TextPrior
) -> tuple[Tensor, Tensor, sparse.csr_array]:
    """Each item's neighbours, int64 [n, m]; (G - G C) at them, float32 [n, m]; and the entries of G that are kept."""
    by_item = history.T.tocsr()
    scale = torch.from_numpy(by_item.sum(1)).add(l2).rsqrt()
    spread = torch.from_numpy(by_item @ (history @ prior.left.numpy()))  # G L, [n, d]
    kept = min(_KEPT * count + 1, n_items)
    chosen, targets, rows = [], [], []

    for block in torch.arange(n_items).split(max(1, _BLOCK_SCORES // n_items)):
        co_occurrence = torch.from_numpy((by_item[block.numpy()] @ history).toarray())  # rows of G
        rows.append(_largest(co_occurrence, scale, kept))
        residual = torch.addmm(
            co_occurrence.mul_(1 + prior.diagonal[block, None]), prior.right[block], spread.T, alpha=-1
        )
        residual[torch.arange(len(block)), block] = 0
        gain = residual.mul(scale).square_()
        gain[torch.arange(len(block)), block] = -1  # an item is not its own neighbour
        chosen.append(gain.topk(count, sorted=False).indices)
        targets.append(residual.gather(1, chosen[-1]))

    gram = sparse.vstack(rows, format="csr")
    return torch.cat(chosen), torch.cat(targets), gram.maximum(gram.T).tocsr()


def _largest(rows: Tensor, scale: Tensor, kept: int) -> sparse.csr_array:
    """The `kept` largest of each row's non-negative entries, after multiplication by the `scale` of their columns."""
    columns = (rows * scale).topk(kept, sorted=False).indices
    values = rows.gather(1, columns)
    there = values > 0
    starts = np.concatenate([[0], there.sum(1).cumsum(0).numpy()])
    return sparse.csr_array((values[there].numpy(), columns[there].int().numpy(), starts), shape=rows.shape)


def _batches(gram: sparse.csr_array, chosen: Tensor) -> list[slice]:
    """Batches of consecutive items whose neighbours have about `_BLOCK_ENTRIES` entries of G in total."""
    lengths = torch.from_numpy(np.diff(gram.indptr).astype(np.int64))
    work = (lengths[chosen].sum(1) + len(chosen) // 2).cumsum(0)  # `_solve` stores a position for each item
    cuts = torch.unique_consecutive(work // _BLOCK_ENTRIES, return_counts=True)[1].cumsum(0).tolist()
    return [slice(*pair) for pair in zip([0, *cuts[:-1]], cuts, strict=True)]


def _solve(gram: sparse.csr_array, chosen: Tensor, targets: Tensor, l2: float) -> Tensor:
    """The corrections of a batch of b items, float32 [b, m]: b systems of m equations."""
    (batch, count), n_items = chosen.shape, len(gram.indptr) - 1
    starts, columns, values = (torch.from_numpy(part) for part in (gram.indptr, gram.indices, gram.data))
    rows = chosen.flatten()
    lengths = (starts[rows + 1] - starts[rows]).long()
    first = starts[rows].long() - (lengths.cumsum(0) - lengths)
    owner = torch.repeat_interleave(torch.arange(len(rows)), lengths)  # position in `rows` of each entry
    entry = first[owner] + torch.arange(len(owner))

    # The position of a column in its item's list of neighbours, -1 if it is not there.
    place = torch.full((batch, n_items), -1, dtype=torch.int32)
    place.scatter_(1, chosen, torch.arange(count, dtype=torch.int32).expand(batch, -1))
    position = place.view(-1)[owner // count * n_items + columns[entry].long()]
    inside = position >= 0

    systems = torch.zeros(batch, count, count)
    systems.view(-1)[owner[inside] * count + position[inside]] = values[entry[inside]]
    systems.diagonal(dim1=1, dim2=2).add_(l2)
    return torch.linalg.solve(systems, targets)


def _sparse(chosen: Tensor, corrections: Tensor, prior_diagonal: Tensor) -> Tensor:
    """S as CSR: column j has the corrections of item j at its neighbours, and cancels the prior's diagonal."""
    n_items, count = chosen.shape
    own = torch.arange(n_items)
    rows = torch.cat([chosen.flatten(), own])
    columns = torch.cat([own.repeat_interleave(count), own])
    values = torch.cat([corrections.flatten(), -prior_diagonal])
    matrix = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, (n_items, n_items), check_invariants=False)
    return matrix.coalesce().to_sparse_csr()
