"""GF-CF (Shen et al., CIKM 2021): recommendation as a low-pass filter of the interaction graph.

A history h, a row over the items, is a signal on the graph of items whose edges are R'R, R = D_users^-1/2 X D^-1/2. The
singular values s of R are at most 1, and the Laplacian I - R'R has the same vectors with the frequencies 1 - s^2. The
linear filter h R'R = h (I - Laplacian) weights a component by s^2, less the higher its frequency. The ideal filter V V'
keeps the lowest frequencies, the largest s, and removes the others; GF-CF applies it between D^-1/2 and D^1/2.

BSPM (Choi et al., SIGIR 2023) sharpens what was blurred: scores y become y - c y R'R, if its solver takes one step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from darec.common.interactions import Pairs
from darec.model.factorisation import right_singular_vectors
from darec.model.item_weights import history_matrix

_OVERSAMPLED = 16


@dataclass(frozen=True)
class GraphFilter:
    """B = (R'R + ideal D^-1/2 V V' D^1/2) (I - sharpen R'R): R = D_users^-1/2 X D^-1/2, V its leading right singular
    vectors, D the items' degrees. These are the item-to-item weights of the model.
    """

    normalised: Tensor
    """R, CSR [n_users, n_items]."""
    transposed: Tensor
    """R', CSR."""
    vectors: Tensor
    """V, [n_items, components]."""
    root_degree: Tensor
    """D^1/2 as a column, [n_items, 1]."""
    ideal: float
    sharpen: float = 0.0

    def times(self, right: Tensor) -> Tensor:
        """B Y."""
        right = self._sharpened(right)
        ideal = (self.vectors @ (self.vectors.T @ (self.root_degree * right))) / self.root_degree
        return self.transposed @ (self.normalised @ right) + self.ideal * ideal

    def transposed_times(self, right: Tensor) -> Tensor:
        """B' Y."""
        ideal = (self.vectors @ (self.vectors.T @ (right / self.root_degree))) * self.root_degree
        return self._sharpened(self.transposed @ (self.normalised @ right) + self.ideal * ideal)

    def _sharpened(self, rows: Tensor) -> Tensor:
        """(I - sharpen R'R) Y."""
        return rows - self.sharpen * (self.transposed @ (self.normalised @ rows)) if self.sharpen else rows

    def scores(self, history: Tensor) -> Tensor:
        """H B."""
        linear = self.transposed @ (self.normalised @ history.to_dense().T)  # [n_items, b]: R'R is symmetric
        # H D^-1/2 V [b, components] times V' D^1/2 [components, n_items].
        ideal = torch.sparse.mm(history, self.vectors / self.root_degree) @ (self.root_degree * self.vectors).T
        return self._sharpened((linear.T + self.ideal * ideal).T).T


def graph_filter(
    train: Pairs, n_users: int, n_items: int, components: int, ideal: float, sharpen: float = 0.0
) -> GraphFilter:
    """Both filters of the train graph; an item without interactions counts as if it had one."""
    history = history_matrix(train, n_users, n_items)
    users, items = history.indices()
    user_degree, item_degree = (
        torch.bincount(side, minlength=size).clamp_min(1).float() for side, size in ((users, n_users), (items, n_items))
    )
    values = (user_degree[users] * item_degree[items]).rsqrt()
    normalised = torch.sparse_coo_tensor(
        history.indices(), values, history.shape, is_coalesced=True, check_invariants=False
    )
    rows, columns = normalised.to_sparse_csr(), normalised.T.coalesce().to_sparse_csr()
    width = min(components + _OVERSAMPLED, n_users, n_items)
    vectors = right_singular_vectors(
        lambda block: rows @ block, lambda block: columns @ block, torch.randn(n_items, width, device=history.device)
    )

    return GraphFilter(rows, columns, vectors[:, :components], item_degree.sqrt()[:, None], ideal, sharpen)
