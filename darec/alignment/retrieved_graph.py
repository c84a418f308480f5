"""The second graph of ProMax (SIGIR 2026, arXiv 2604.26231): representations over the train graph are contrasted with
those over the train graph and retrieved edges.

With u, i the unit rows of the batch's pairs over the train graph, and u', i' over the second one, the loss is weight
times the sum of
    users   InfoNCE(u, u')                            over the distinct users of the batch
    items   InfoNCE(i, i')                            over its distinct positive items
    cross   (InfoNCE(u, i') + InfoNCE(u', i)) / 2     over its pairs, each user with the item of the pair
"""

import torch
from torch import Tensor

from darec.alignment.base import OBJECTIVES, Objective, Setting
from darec.common.errors import UserError
from darec.common.interactions import Batch, Interactions, Representations
from darec.model import losses
from darec.model.propagation import Adjacency, power_sum
from darec.model.text_graph import retrieved_items
from schemas.alignment import RetrievedGraphConfig


@OBJECTIVES.register(RetrievedGraphConfig)
class RetrievedGraph(Objective):
    """The first view is the backbone's; the second is the sum of layers of LightGCN from the same input rows."""

    def __init__(self, config: RetrievedGraphConfig, setting: Setting) -> None:
        super().__init__()
        if setting.out_dim != setting.dim:
            hint = "use a backbone such as lightgcn, or leave retrieved-graph out"
            raise UserError("the backbone has wider rows than its input", where="train.alignment", hint=hint)

        self.config = config
        self.graph = _second_graph(setting.text, setting.interactions, config.items).shared_by(setting.split)
        self._nodes: Tensor | None = None

    def inputs(self, nodes: Tensor) -> Tensor:
        """Returns `nodes`; in training they are also the input of the second graph."""
        self._nodes = nodes if self.training else None
        return nodes

    def forward(self, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """The three terms."""
        config, nodes = self.config, self._nodes
        assert nodes is not None, "forward must be called after inputs, in training"
        self._nodes = None
        second = power_sum(self.graph, nodes, config.layers, input_layer=config.input_layer)

        ends = batch.users, batch.items + final.n_users
        user, item, other_user, other_item = (
            final.split.whole(view.index_select(0, rows)) for view in (final.nodes, second) for rows in ends
        )
        repeats = _repeats(torch.cat(ends), len(second)).split(len(batch.users))
        crossed = losses.info_nce(user, other_item, other_item, config.temperature)
        crossed = crossed + losses.info_nce(other_user, item, item, config.temperature)
        terms = {
            "users": losses.contrast_distinct(user, other_user, repeats[0], config.temperature),
            "items": losses.contrast_distinct(item, other_item, repeats[1], config.temperature),
            "cross": crossed / 2,
        }
        return {f"retrieved-graph/{name}": config.weight * term for name, term in terms.items()}


def _second_graph(text: Representations, interactions: Interactions, items: int) -> Adjacency:
    """The normalised graph of the train pairs and the retrieved ones, each of weight 1; dislikes are not retrieved."""
    train, dislikes = interactions.train, interactions.dislikes
    retrieved = retrieved_items(text, items, train.joined(dislikes) if dislikes else train)
    return Adjacency.normalised(train.joined(retrieved), interactions.n_users, interactions.n_items)


def _repeats(nodes: Tensor, size: int) -> Tensor:
    """How often each node occurs in `nodes` (int64 [n], below `size`), float32 [n]; it does not wait for the device."""
    counts = torch.zeros(size, device=nodes.device)
    return counts.index_add_(0, nodes, torch.ones(len(nodes), device=nodes.device))[nodes]
