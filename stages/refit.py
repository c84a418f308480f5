"""refit: trains the released model on all interactions, for the number of epochs that was best on validation."""

import polars as pl

from darec.artifacts.files import ALL_DISLIKES, HISTORY, TEST_PART, TRAIN_PART, VAL_PART
from darec.common.interactions import Interactions, Pairs
from darec.dataset.graph import edge_list
from darec.training.fusing import share_of
from darec.training.history import best_epoch
from schemas.reports import TrainReport
from stages.contract import Outcome, StageContext
from stages.train import dislikes, fit, sizes


def run(context: StageContext) -> Outcome[TrainReport]:
    """Trains the model again. Without held-out interactions there is no validation, so the number of epochs and the
    share of text columns are those of `train`."""
    parts = [context.read(part) for part in (TRAIN_PART, VAL_PART, TEST_PART)]
    known = pl.concat(parts)
    none = Pairs.of_table(known.clear())
    interactions = Interactions(*sizes(context), Pairs.of_table(known), none, none, dislikes(context, ALL_DISLIKES))
    judged = context.read(HISTORY)

    def edges() -> pl.DataFrame:
        return edge_list(known.lazy(), context.config["graph"])

    return fit(context, interactions, edges, last_epoch=best_epoch(judged), text_share=share_of(judged))
