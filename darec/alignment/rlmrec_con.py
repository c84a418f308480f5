"""RLMRec-Con (Ren et al., WWW 2024, section 3.4.1): contrastive alignment with projected text vectors."""

from torch import Tensor

from darec import losses
from darec.alignment.base import Objective, mlp
from darec.interactions import Batch, Representations
from schemas.alignment import RLMRecConConfig


class RLMRecCon(Objective):
    """InfoNCE of users against all users' text, and of positive and negative items against those in the batch."""

    def __init__(self, config: RLMRecConConfig, text: Representations, out_dim: int) -> None:
        super().__init__()
        self.config, self.text = config, text
        self.project = mlp([text.dim, (text.dim + out_dim) // 2, out_dim])

    def forward(self, final: Representations, batch: Batch) -> dict[str, Tensor]:
        """One term, summed over users, positives and negatives."""
        text_users = self.project(self.text.user)
        users = self._nce(final.user[batch.users], text_users[batch.users], text_users)
        positive, negative = (self.project(self.text.item[rows]) for rows in (batch.items, batch.negatives))
        items = self._nce(final.item[batch.items], positive, positive)
        negatives = self._nce(final.item[batch.negatives], negative, negative)
        return {"rlmrec-con": self.config.weight * (users + items + negatives)}

    def _nce(self, anchor: Tensor, match: Tensor, candidates: Tensor) -> Tensor:
        return losses.info_nce(anchor, match, candidates, self.config.temperature)
