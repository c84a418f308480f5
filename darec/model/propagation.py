"""The train graph as a sparse symmetric matrix over nodes, and its products with representations.

The matrix has no gradient. If the gradient of the loss in Y = A X is G, that in X is A' G, which is A G, because A is
symmetric: the backward pass of a product is the same product. So it is for sum_l A^l X, whose transpose is itself.
"""

import warnings
from typing import Any, cast

import polars as pl
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from darec.common.column_split import UNSPLIT, ColumnSplit
from darec.common.interactions import Pairs
from schemas import columns as c

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")  # on a GPU


class Adjacency:
    """A bipartite graph as one symmetric CSR matrix, float32 [N, N] over N = n_users + n_items nodes."""

    def __init__(self, matrix: Tensor, edge: Tensor, edges: int, split: ColumnSplit = UNSPLIT) -> None:
        self.matrix = matrix
        self.split = split
        """How processes share the products."""
        self._edge = edge  # the undirected edge of each entry of the matrix
        self._edges = edges

    @classmethod
    def build(cls, pairs: Pairs, weights: Tensor, n_users: int, n_items: int) -> "Adjacency":
        """The graph with an edge of weight `weights[e]` (float32 [E]) between user and item of each distinct pair."""
        nodes, edges = n_users + n_items, len(pairs)
        # Rows of users have their edges by item, rows of items by user: each sorts the numbers of one side.
        by_user = torch.argsort(pairs.users * n_items + pairs.items)
        by_item = by_user[torch.argsort(pairs.items[by_user], stable=True)]
        columns = torch.cat([pairs.items[by_user].int() + n_users, pairs.users[by_item].int()])
        degrees = [
            torch.bincount(side, minlength=size) for side, size in ((pairs.users, n_users), (pairs.items, n_items))
        ]
        starts = torch.zeros(nodes + 1, dtype=torch.int64, device=columns.device)
        starts[1:] = torch.cumsum(torch.cat(degrees), 0)
        edge = torch.cat([by_user.int(), by_item.int()])
        matrix = _csr(starts.int(), columns, weights.float()[edge], nodes)

        return cls(matrix, edge, edges)

    @classmethod
    def without_edges(cls, n_users: int, n_items: int) -> "Adjacency":
        """For models that do not propagate."""
        none = torch.zeros(0, dtype=torch.int64)
        return cls.build(Pairs(none, none), none.float(), n_users, n_items)

    @classmethod
    def of_table(cls, edges: pl.DataFrame, n_users: int, n_items: int) -> "Adjacency":
        """From a table with the columns `user_index`, `item_index` and `weight`."""
        weights = torch.from_numpy(edges[c.WEIGHT].to_numpy().copy())
        return cls.build(Pairs.of_table(edges), weights, n_users, n_items)

    @classmethod
    def normalised(cls, pairs: Pairs, n_users: int, n_items: int) -> "Adjacency":
        """D^-1/2 A D^-1/2: an edge weighs 1 / sqrt(degree of the user x degree of the item)."""
        user_degree = torch.bincount(pairs.users, minlength=n_users).double()
        item_degree = torch.bincount(pairs.items, minlength=n_items).double()
        weights = (user_degree[pairs.users] * item_degree[pairs.items]).rsqrt()
        return cls.build(pairs, weights.float(), n_users, n_items)

    def entries(self) -> tuple[Tensor, Tensor]:
        """Row and column of each entry of the matrix in its order, int64 [E] each."""
        counts, columns = self.matrix.crow_indices().diff().long(), self.matrix.col_indices().long()
        nodes = torch.arange(len(counts), device=counts.device)
        rows = torch.repeat_interleave(nodes, counts, output_size=len(columns))  # a size saves a wait for the GPU
        return rows, columns

    def with_self_loops(self) -> "Adjacency":
        """(D + 1)^-1/2 (A + 1) (D + 1)^-1/2 over this graph's edges, which have weight 1; `drop` may also drop
        self-loops.
        """
        nodes, loops = len(self.matrix), torch.arange(len(self.matrix), device=self.matrix.device)
        rows, columns = (torch.cat([part, loops]) for part in self.entries())
        order = torch.argsort(rows * nodes + columns)
        rows, columns = rows[order], columns[order]
        degrees = torch.bincount(rows, minlength=nodes)
        starts = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)])
        values = (degrees[rows] * degrees[columns]).double().rsqrt().float()
        edge = torch.cat([self._edge, self._edges + loops])[order]

        return Adjacency(_csr(starts.int(), columns.int(), values, nodes), edge, self._edges + nodes, self.split)

    def drop(self, keep: float, by_degree: bool = False) -> "Adjacency":
        """A random subgraph: each undirected edge is kept with probability `keep`, with its weight unchanged.

        `by_degree`: the probability is `keep` times the weight over the mean weight, and at most 1, so that fewer than
        `keep` are left on average. These weigh 1 / sqrt(product of the degrees that are left).
        """
        if keep >= 1:
            return self
        values = self.matrix.values()
        chance: float | Tensor = keep
        if by_degree:
            weights = values.new_empty(self._edges).index_copy(0, self._edge.long(), values)  # both entries are equal
            chance = keep * weights / weights.mean()
        kept = (torch.rand(self._edges, device=values.device) < chance).to(values.dtype)[self._edge]
        matrix = self._with_values(kept if by_degree else values * kept)
        if by_degree:
            root = multiply(matrix, values.new_ones(len(matrix), 1)).clamp_min(1).rsqrt().squeeze(1)
            rows, columns = self.entries()
            matrix = self._with_values(kept * root[rows] * root[columns])
        return Adjacency(matrix, self._edge, self._edges, self.split)

    def _with_values(self, values: Tensor) -> Tensor:
        return _csr(self.matrix.crow_indices(), self.matrix.col_indices(), values, len(self.matrix))

    def shared_by(self, split: ColumnSplit) -> "Adjacency":
        """The same graph, whose products are divided as `split` says."""
        return Adjacency(self.matrix, self._edge, self._edges, split)

    def state(self) -> dict[str, Tensor]:
        """The graph as plain tensors."""
        matrix = self.matrix
        parts = {"starts": matrix.crow_indices(), "columns": matrix.col_indices(), "values": matrix.values()}
        return parts | {"edge": self._edge}

    @classmethod
    def of_state(cls, state: dict[str, Tensor], nodes: int) -> "Adjacency":
        """The reverse of `state`, for a graph of `nodes` nodes."""
        matrix = _csr(state["starts"], state["columns"], state["values"], nodes)
        return cls(matrix, state["edge"], len(state["edge"]) // 2)

    def to(self, device: torch.device) -> "Adjacency":
        """The same graph on `device`."""
        return Adjacency(self.matrix.to(device), self._edge.to(device), self._edges, self.split)


def product(adjacency: Adjacency, nodes: Tensor) -> Tensor:
    """A X: one step of propagation, [N, d] -> [N, d]."""
    return adjacency.split.by_columns(lambda part: cast("Tensor", _Product.apply(part, adjacency.matrix)), nodes)


def power_sum(adjacency: Adjacency, nodes: Tensor, layers: int, *, input_layer: bool = True) -> Tensor:
    """X + A X + ... + A^layers X, [N, d] -> [N, d], without storing the intermediate layers.

    Without `input_layer` the sum begins with A X; `layers` is then at least 1.
    """
    if not input_layer:  # layers 1 to L are one product with layers 0 to L - 1
        return product(adjacency, power_sum(adjacency, nodes, layers - 1))

    def of(part: Tensor) -> Tensor:
        return cast("Tensor", _PowerSum.apply(part, adjacency.matrix, layers))

    return adjacency.split.by_columns(of, nodes)


def multiply(matrix: Tensor, nodes: Tensor) -> Tensor:
    """The product of a CSR matrix and node rows in the matrix's precision, also under autocast; no gradients.

    On a CPU the weighted sum of embedding bags computes the same product in half the time, because its kernel
    prefetches rows.
    """
    with torch.autocast(nodes.device.type, enabled=False):
        nodes = nodes.to(matrix.dtype)
        if nodes.device.type != "cpu":
            return matrix @ nodes
        columns, starts, values = matrix.col_indices(), matrix.crow_indices(), matrix.values()
        return functional.embedding_bag(
            columns, nodes, starts, mode="sum", per_sample_weights=values, include_last_offset=True
        )


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, nodes: Tensor, matrix: Tensor) -> Tensor:
        ctx.matrix = matrix
        return multiply(matrix, nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return multiply(ctx.matrix, gradient.contiguous()), None


class _PowerSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, nodes: Tensor, matrix: Tensor, layers: int) -> Tensor:
        ctx.matrix, ctx.layers = matrix, layers
        return _horner(matrix, nodes, layers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _horner(ctx.matrix, gradient.contiguous(), ctx.layers), None, None


def _horner(matrix: Tensor, nodes: Tensor, layers: int) -> Tensor:
    """X + A X + ... + A^layers X = X + A (X + A (X + ...)): one product a layer, and one matrix in memory, [N, d]."""
    total = nodes.clone() if layers == 0 else nodes
    for _ in range(layers):
        total = multiply(matrix, total).add_(nodes)
    return total


def _csr(starts: Tensor, columns: Tensor, values: Tensor, size: int) -> Tensor:
    return torch.sparse_csr_tensor(starts, columns, values, size=(size, size), check_invariants=False)
