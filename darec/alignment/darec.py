"""DaRec (Yang et al., ICDE 2025, arXiv 2408.08231): aligns the structure of shared parts and separates the specific
parts.

Both representations of a node, the backbone's (C) and the text's (L), have a shared and a specific part.
For a sample of n nodes, with C and L the rows of the backbone and the text, sh and sp their shared and specific parts,
and k-means centres c and l of the shared parts, matched to each other, the loss is weight times the sum of
    L_or   mean_i cos(Csp_i, Csh_i)^2 + mean_i cos(Lsp_i, Lsh_i)^2               the parts of a node are orthogonal
    L_uni  log mean_{i != j} e^(-2 |Csp_i - Csp_j|^2) + the same of Lsp          unit rows are spread out
    L_glo  |Csh Csh' - Lsh Lsh'|^2 / n^2                                         both sides have the same similarities
    L_loc  mean_k (cos(c_k, l_k) - 1)^2 + mean_{k != m} cos(c_k, l_m)^2          centres match, and differ from others
as published. The default compares neighbourhoods instead: L_glo is the cross-entropy of softmax similarities, L_loc
compares cosines between centres. All forms are in `darec.model.losses`, with their derivations.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from darec.alignment.base import OBJECTIVES, Objective, Setting, mlp
from darec.common.interactions import Batch, Interactions, Representations
from darec.model import clustering, losses
from darec.model.whitening import propagated
from schemas.alignment import DaRecConfig

_ACTIVATIONS = {"leaky_relu": nn.LeakyReLU, "relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}
_CENTRE_GAPS = {"matrix": losses.centre_matrix_gap, "distance": losses.centre_distance}
_CLUSTERED_ROWS = 2_048  # the largest number of rows per side that k-means uses


class Networks(nn.Module):
    """One network per part, as in the paper."""

    def __init__(self, config: DaRecConfig, width: int) -> None:
        super().__init__()
        widths = [width, *[config.width] * config.depth]
        self.shared, self.specific = (mlp(widths, _ACTIVATIONS[config.activation]) for _ in range(2))
        self.width = config.width

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """[n, d] -> shared [n, width], specific [n, width]."""
        return self.shared(rows), self.specific(rows)


class Columns(nn.Module):
    """The first `width` columns are shared, the others specific. It has no parameters; the parts are orthogonal."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """[n, d] -> shared [n, width], specific [n, d - width], which may have no column at all."""
        return rows[:, : self.width], rows[:, self.width :]


@OBJECTIVES.register(DaRecConfig)
class DaRec(Objective):
    """All four terms over a sample of nodes, drawn in every `every`-th step of an epoch.

    The steps in between reuse the gradient of the last sample. Rare large gradients would not do: Adam divides them by
    their own size.
    """

    cf_centres: Tensor
    text_centres: Tensor
    _relations: Tensor
    """The cosines between the text centres of each side, [sides, K, K], which change with k-means only."""

    def __init__(self, config: DaRecConfig, setting: Setting) -> None:
        super().__init__()
        self.config, self.split, self.fixed = config, setting.split, setting.fixed
        text, interactions, out_dim = setting.text, setting.interactions, setting.out_dim
        self.text_learns = config.text_parts == "network"
        self.text = text if self.text_learns else _teacher(config, text, interactions)
        self.text_parts = Networks(config, text.dim) if self.text_learns else Columns(self.text.dim)

        columns = max(1, round(config.shared * out_dim))
        self.cf_parts = Columns(columns) if config.cf_parts == "columns" else Networks(config, out_dim)

        users, items = (0, text.n_users), (text.n_users, len(text.nodes))
        ranges = {"users": [users], "items": [items], "separate": [users, items], "joint": [(0, len(text.nodes))]}
        self.sides = ranges[config.sides]

        # Nodes are drawn in proportion to their train interactions.
        self._occurrences: list[Tensor] = []
        if config.sample_from == "interactions":
            occurrences = torch.cat([interactions.train.users, interactions.train.items + text.n_users])
            self._occurrences = [occurrences[(first <= occurrences) & (occurrences < end)] for first, end in self.sides]

        # With a fixed number of nodes, samples are drawn for many steps at once.
        self._samples: list[clustering.Samples] = []
        if self.fixed and config.sample_from != "batch":
            self._samples = [self._prepared(side) for side in range(len(self.sides))]
            self._occurrences = []  # the samples have their counts

        self.register_buffer("cf_centres", torch.zeros(len(self.sides), config.centres, self.cf_parts.width))
        self.register_buffer("text_centres", torch.zeros(len(self.sides), config.centres, self.text_parts.width))
        self.register_buffer("_relations", torch.zeros(len(self.sides), *2 * [config.centres]), persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # counts the samples
        self.scale, self._samples_drawn, self._step_of_epoch = 1.0, 0, 0
        self._draws = self._clusters = True
        self._values: dict[str, Tensor] = {}
        self._last: tuple[Tensor, Tensor] | None = None  # the rows of the last sample and the gradient in them

    def start_epoch(self, epoch: int) -> bool:
        """Updates the warm-up of the weight, and the counters on the host. The first step draws a sample."""
        self._samples_drawn, self._step_of_epoch, before = int(self.step), 0, self.scale
        self._relate()  # the centres may be those of a checkpoint
        for samples in self._samples:
            samples.forget()
        self.scale = min(1.0, (epoch + 1) / self.config.warmup_epochs) if self.config.warmup_epochs else 1.0
        return self.scale != before

    def start_step(self, step: int) -> int:
        """Draws the sample of a step. Kinds of steps: 0 with a sample, 1 with k-means too, 2 with the last gradient."""
        self._draws = self._step_of_epoch % self.config.every == 0
        self._step_of_epoch += 1
        if not self._draws:
            return 2

        for samples in self._samples:
            samples.draw()
        local = bool(self.config.weights.local_structure)
        self._clusters = local and self._samples_drawn % self.config.recluster_steps == 0
        self._samples_drawn += 1
        return int(self._clusters)

    def forward(self, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """The four terms, each the mean over sides."""
        nodes = final.nodes if self.config.gradient_to_backbone else final.nodes.detach()
        if not self._draws:
            return self._reused(nodes)

        if self._clusters:
            self._recluster(nodes)
        self.step += 1
        samples = [self._sample(side, batch, final.n_users) for side in range(len(self.sides))]
        rows = torch.cat(samples) if len(samples) > 1 else samples[0]
        sampled = nodes.index_select(0, rows)
        if self.config.every > 1 and sampled.requires_grad:
            sampled.register_hook(lambda gradient: self._keep(rows, gradient))

        scale = self.config.weight * self.scale / len(samples)
        weights = {name: scale * weight for name, weight in self.config.weights if weight}
        terms: dict[str, Tensor] = {}
        for side, cf in enumerate(sampled.split([len(sample) for sample in samples])):
            for name, term in self._side(side, samples[side], cf, weights):
                key = f"darec/{name}"
                terms[key] = terms[key] + term if key in terms else term

        if self.config.every > 1:
            self._values = {name: _stored(term, self._values.get(name)) for name, term in terms.items()}
        return terms

    def _keep(self, rows: Tensor, gradient: Tensor) -> None:
        last = self._last or (None, None)
        self._last = _stored(rows, last[0]), _stored(gradient, last[1])

    def _reused(self, nodes: Tensor) -> dict[str, Tensor]:
        """The last values of the terms, with the last gradient, which is that of their sum."""
        if not self._values or self._last is None:
            return {}
        terms = dict(self._values)
        first = next(iter(terms))
        terms[first] = losses.known(terms[first], nodes, *self._last)
        return terms

    def _side(self, side: int, rows: Tensor, cf: Tensor, weights: dict[str, float]) -> Iterator[tuple[str, Tensor]]:
        """The terms of `weights` by name, multiplied by their weights, of the sample `rows` with the vectors `cf`."""
        if len(rows) < 2:  # a single row has no structure
            return

        cf_shared, cf_specific = self.cf_parts(self.split.whole(cf))
        text_shared, text_specific = self.text_parts(self.text.nodes.index_select(0, rows))

        # Columns are orthogonal by construction: the term is for networks only.
        learnt = isinstance(self.cf_parts, Networks), self.text_learns
        if "orthogonality" in weights and any(learnt):
            parts = (cf_specific, cf_shared), (text_specific, text_shared)
            gaps = [losses.orthogonality(*pair) for pair, wanted in zip(parts, learnt, strict=True) if wanted]
            yield "orthogonality", weights["orthogonality"] * torch.stack(gaps).sum()

        specific = [part for part in (cf_specific, text_specific) if part.shape[1]]
        if "uniformity" in weights and specific:
            spread = torch.stack([losses.uniformity(part) for part in specific]).sum()
            yield "uniformity", weights["uniformity"] * spread

        if "global_structure" in weights:
            yield "global_structure", self._global(cf_shared, text_shared, weights["global_structure"])
        if "local_structure" in weights:
            yield "local_structure", self._local(side, cf_shared, text_shared, weights["local_structure"])

    def _sample(self, side: int, batch: Batch, n_users: int) -> Tensor:
        """At most `sample` distinct node numbers of a side."""
        if self._samples:
            return self._samples[side].rows

        (first, end), count, device = self.sides[side], self.config.sample, batch.users.device
        if self.config.sample_from == "interactions":
            nodes = self._occurrences[side]
            return torch.unique(nodes[torch.randint(len(nodes), (count,), device=device)])

        if self.config.sample_from == "uniform":
            return torch.unique(torch.randint(first, end, (count,), device=device))
        nodes = torch.unique(torch.cat([batch.users, batch.items + n_users]))
        nodes = nodes[(nodes >= first) & (nodes < end)]
        return nodes[torch.randperm(len(nodes), device=device)[:count]]

    def _prepared(self, side: int) -> clustering.Samples:
        first, end = self.sides[side]
        if self.config.sample_from == "interactions":
            nodes, counts = torch.unique(self._occurrences[side], return_counts=True)
            return clustering.Samples(nodes, counts.float(), self.config.sample)
        nodes = torch.arange(first, end, device=self.text.nodes.device)
        return clustering.Samples(nodes, torch.ones(len(nodes), device=nodes.device), self.config.sample)

    def _global(self, cf_shared: Tensor, text_shared: Tensor, weight: float) -> Tensor:
        """L_glo over the sample."""
        config = self.config
        if config.similarity != "softmax":
            return weight * losses.structure_gap(cf_shared, text_shared, config.similarity)
        if self.text_learns:
            temperatures = config.temperature, config.text_temperature
            return weight * losses.structure_divergence(cf_shared, text_shared, *temperatures)
        return losses.structure_cross_entropy(cf_shared, text_shared, config.temperature, weight)

    def _local(self, side: int, cf_shared: Tensor, text_shared: Tensor, weight: float) -> Tensor:
        """L_loc over the centres of the sample: means of the rows nearest to each centre of the last run of k-means.

        A frozen text side uses those centres directly.
        """
        loss = self.config.local_loss
        centres = clustering.means if loss == "distance" else clustering.directions  # the other losses are of cosines
        cf, text = _regrouped(centres, cf_shared, self.cf_centres[side]), self.text_centres[side]
        if self.text_learns:
            text = _regrouped(centres, text_shared, text)
        if loss != "relations":
            return weight * _CENTRE_GAPS[loss](cf, text)
        return losses.centre_relations(cf, losses.cosines(text) if self.text_learns else self._relations[side], weight)

    @torch.no_grad()
    def _recluster(self, nodes: Tensor) -> None:
        """Runs k-means on both shared parts, then reorders the text's centres to match the backbone's.

        A frozen text side is clustered once.
        """
        for side, (first, end) in enumerate(self.sides):
            rows = torch.randperm(end - first, device=nodes.device)[:_CLUSTERED_ROWS] + first
            cf, text = self.cf_parts(self.split.whole(nodes[rows]))[0], self.text_parts(self.text.nodes[rows])[0]
            self.cf_centres[side] = self._centres(cf, self.cf_centres[side])
            centres = self.text_centres[side]
            if self.text_learns or self._samples_drawn <= 1:
                centres = self._centres(text, centres)
            self.text_centres[side] = centres[self._partners(side, cf, text, centres)]
        self._relate()

    def _relate(self) -> None:
        """Compares the text centres with each other."""
        for relations, centres in zip(self._relations, self.text_centres, strict=True):
            relations.copy_(losses.cosines(centres))

    def _centres(self, rows: Tensor, last: Tensor) -> Tensor:
        first = self._samples_drawn <= 1
        start = clustering.initial_centres(rows, self.config.centres, fixed=self.fixed) if first else last
        return clustering.kmeans(rows, start, self.config.kmeans_iterations, fixed=self.fixed)

    def _partners(self, side: int, cf: Tensor, text: Tensor, text_centres: Tensor) -> Tensor:
        """The index of the text centre that matches each backbone centre: the nearest, or the one with most common
        rows.
        """
        cf_centres = self.cf_centres[side]
        if self.config.local_loss != "relations":
            return clustering.match(torch.cdist(cf_centres, text_centres), self.config.matching, fixed=self.fixed)
        labels = clustering.nearest(cf, cf_centres), clustering.nearest(text, text_centres)
        shared = clustering.shared_members(*labels, self.config.centres)
        return clustering.match(-shared, self.config.matching, fixed=self.fixed)


def _stored(value: Tensor, place: Tensor | None) -> Tensor:
    """`value` without gradient, in the tensor `place` if it fits: recorded steps read always the same tensors."""
    value = value.detach()
    return place.copy_(value) if place is not None and place.shape == value.shape else value.clone()


def _teacher(config: DaRecConfig, text: Representations, interactions: Interactions) -> Representations:
    """`shared_text` in the form of the global term."""
    rows = shared_text(config, text, interactions)
    if config.similarity != "softmax":
        return rows
    return Representations(losses.sharpened(rows.nodes, config.text_temperature), rows.n_users)


def shared_text(config: DaRecConfig, text: Representations, interactions: Interactions) -> Representations:
    """Unit rows of whitened principal components, propagated over the train graph."""
    return propagated(text, interactions, config.components, config.propagate)


def _regrouped(centres: Callable[[Tensor, Tensor, Tensor], Tensor], rows: Tensor, last: Tensor) -> Tensor:
    """The centres of the groups of rows that are nearest to each of the last centres, [n, d], [K, d] -> [K, d]."""
    return centres(rows, clustering.nearest(rows.detach(), last), last)
