"""RLMRec-Con (Ren et al., WWW 2024, section 3.4.1): contrastive alignment with projected text vectors."""

import torch
from torch import Tensor

from darec.alignment.base import OBJECTIVES, Objective, Setting, mlp
from darec.common.interactions import Batch, Representations
from darec.model import losses
from schemas.alignment import RLMRecConConfig


@OBJECTIVES.register(RLMRecConConfig)
class RLMRecCon(Objective):
    """InfoNCE of users against all users' text, and of positive and negative items against those in the batch."""

    def __init__(self, config: RLMRecConConfig, setting: Setting) -> None:
        super().__init__()
        self.config, self.text = config, setting.text
        text_dim, out_dim = setting.text.dim, setting.out_dim
        self.project = mlp([text_dim, (text_dim + out_dim) // 2, out_dim])

    def forward(self, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """One term, summed over users, positives and negatives."""
        pairs = slice(self.config.rows or None)  # a batch is in random order
        chosen = batch.users[pairs]
        anchors = final.split.whole(final.user[chosen])
        users = self._nce(anchors, self.project(self.text.user[chosen]), self.project(self._candidates()))
        items, negatives = (self._items(final, rows[pairs]) for rows in (batch.items, batch.negatives))
        return {"rlmrec-con": self.config.weight * (users + items + negatives)}

    def _candidates(self) -> Tensor:
        """Text vectors of the negatives for users: of all users, or of a random sample."""
        text, count = self.text.user, self.config.candidates
        return text[torch.randperm(len(text), device=text.device)[:count]] if count else text

    def _items(self, final: Representations, items: Tensor) -> Tensor:
        text = self.project(self.text.item[items])
        return self._nce(final.split.whole(final.item[items]), text, text)

    def _nce(self, anchor: Tensor, match: Tensor, candidates: Tensor) -> Tensor:
        return losses.info_nce(anchor, match, candidates, self.config.temperature)
