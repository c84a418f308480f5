"""The whole model: input rows, objectives that change them, the backbone, and the losses."""

from typing import cast

import torch
from torch import Tensor, nn

from darec import alignment
from darec.alignment.base import mlp
from darec.common.column_split import UNSPLIT, ColumnSplit
from darec.common.errors import UserError
from darec.common.interactions import Batch, Interactions, Representations
from darec.model import backbones
from darec.model.propagation import Adjacency, product
from darec.model.text_graph import text_neighbours
from darec.model.whitening import start, whiten
from darec.training.ranking import RANKING_LOSSES
from darec.training.sampling import Sampler
from schemas.training import TextConfig, TrainConfig

_BLOCK = 65_536  # number of rows that are initialised at once


class TextInput(nn.Module):
    """Text vectors as input rows, with one learnt projection for users and one for items."""

    def __init__(self, config: TextConfig, text: Representations, dim: int) -> None:
        super().__init__()
        self.text = text
        widths = [text.dim, *[config.width] * (config.depth - 1), dim]
        self.project_user, self.project_item = mlp(widths), mlp(widths)

    def forward(self) -> Tensor:
        """Returns the projected rows, [N, dim], in float32 also under autocast, as id embeddings are."""
        return torch.cat([self.project_user(self.text.user), self.project_item(self.text.item)]).float()


class Recommender(nn.Module):
    """A backbone with any number of objectives and one ranking loss."""

    def __init__(
        self,
        config: TrainConfig,
        interactions: Interactions,
        adjacency: Adjacency,
        text: Representations | None,
        split: ColumnSplit = UNSPLIT,
        *,
        fixed: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.interactions, self.split = config, interactions, split
        if config.needs_text and text is None:
            raise UserError(
                "text vectors are required", where="train", hint="set train.alignment to [] and train.text.use to none"
            )

        n_users, use = interactions.n_users, config.text.use
        self.embedding = None if use == "replace" else nn.Parameter(_initial(config, interactions, text, split))
        if text is not None and config.text.whiten:
            text = whiten(text, config.text.whiten, config.text.whitening)
        self.text_input = TextInput(config.text, text, config.dim) if use in ("add", "replace") and text else None

        self.backbone = backbones.build(config.backbone, adjacency.shared_by(split), n_users, config.dim)
        self.text_graph = _text_graph(config, text, self.backbone.out_dim, split)
        # An objective of weight 0 is not built: it would draw random numbers, which would change the model.
        given = text or Representations(interactions.train.users.new_zeros(interactions.n_nodes, 0).float(), n_users)
        setting = alignment.Setting(given, interactions, adjacency, config.dim, self.backbone.out_dim, fixed, split)
        self._objectives = nn.ModuleList(
            alignment.build(each, setting) for each in config.alignment if getattr(each, "weight", 1)
        )

    @property
    def objectives(self) -> list[alignment.Objective]:
        """The objectives in the order of the configuration."""
        return cast("list[alignment.Objective]", list(self._objectives))

    def start_epoch(self, epoch: int) -> bool:
        """Notifies the backbone and all objectives that epoch `epoch` (the first is 0) begins; whether steps change."""
        changed = [part.start_epoch(epoch) for part in (self.backbone, *self.objectives)]
        return any(changed)

    def start_step(self, step: int) -> tuple[int, ...]:
        """Notifies all objectives of step `step` (the first is 0). Returns its kind, that of each objective."""
        return tuple(objective.start_step(step) for objective in self.objectives)

    def inputs(self) -> Tensor:
        """The rows that enter the backbone, [N, dim]."""
        from_text = self.split.part(self.text_input()) if self.text_input else None
        parts = [part for part in (self.embedding, from_text) if part is not None]
        nodes = parts[0] if len(parts) == 1 else parts[0] + parts[1]
        for objective in self.objectives:
            nodes = objective.inputs(nodes)
        return nodes

    def finish(self, nodes: Tensor) -> Representations:
        """Final representations, whose inner products are the scores."""
        rows = self.backbone(nodes)
        if self.text_graph:
            users, items = rows.split([self.interactions.n_users, self.interactions.n_items])
            rows = torch.cat([users, items + product(self.text_graph, nodes[self.interactions.n_users :])])
        rows = self.split.normalised(rows) if self.config.scoring == "cosine" else rows
        return Representations(rows, self.interactions.n_users, self.split)

    def forward(self, batch: Batch, sampler: Sampler) -> dict[str, Tensor]:
        """All weighted loss terms of a step by name. Their sum is the loss; the optimiser adds the L2 term.

        Terms of several objectives of the same class are added.
        """
        nodes = self.inputs()
        final = self.finish(nodes)
        weight, terms = self.config.ranking_weight, dict[str, Tensor]()
        if weight and not self.backbone.own_ranking_loss:
            terms["ranking"] = RANKING_LOSSES.build(self.config.loss, final, batch, sampler)
        terms |= self.backbone.losses(nodes, final, batch)
        if "ranking" in terms:
            terms["ranking"] = weight * terms["ranking"]
        for objective in self.objectives:
            for name, term in objective(final, batch).items():
                terms[name] = terms[name] + term if name in terms else term
        return terms

    @torch.no_grad()
    def represent(self) -> Representations:
        """Final representations for evaluation and release, without dropout, masks or noise."""
        was_training = self.training
        self.eval()
        final = self.finish(self.inputs())
        self.train(was_training)
        # detached, because the backbone may return the parameter itself
        return Representations(final.nodes.detach(), final.n_users, final.split)


def _text_graph(config: TrainConfig, text: Representations | None, width: int, split: ColumnSplit) -> Adjacency | None:
    """The graph of items with similar texts.

    Raises:
        UserError: the backbone's representations are wider than its input.
    """
    if not config.text.neighbours or text is None:
        return None
    if width != config.dim:
        hint = "use a backbone such as lightgcn, or set train.text.neighbours to 0"
        raise UserError(
            f"{config.backbone.name} has wider rows than its input", where="train.text.neighbours", hint=hint
        )
    return text_neighbours(text.item, config.text.neighbours).shared_by(split)


def _initial(
    config: TrainConfig, interactions: Interactions, text: Representations | None, split: ColumnSplit
) -> Tensor:
    """Id embeddings [N, dim]: Xavier-uniform, separately for users and items, or the components of the text.

    With several processes, each draws the numbers of all columns and keeps its own.
    """
    if config.text.use == "start" and text:
        return start(text, config.dim)[:, split.mine(config.dim)].clone()
    sides = (interactions.n_users, interactions.n_items)
    return torch.cat([_xavier_uniform(rows, config.dim, split) for rows in sides])


def _xavier_uniform(rows: int, dim: int, split: ColumnSplit) -> Tensor:
    """This process's columns of nn.init.xavier_uniform_ for [rows, dim], without allocating the whole matrix."""
    bound, mine = (6 / (rows + dim)) ** 0.5, split.mine(dim)
    kept = torch.empty(rows, dim // split.parts)
    for block in kept.split(_BLOCK):
        block.copy_(torch.empty(len(block), dim).uniform_(-bound, bound)[:, mine])
    return kept
