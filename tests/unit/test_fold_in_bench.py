"""The benchmark of folding in: users who are left out are not trained on, and each user is left out once."""

import torch

from benchmarks import fold_in
from benchmarks.data import BenchData
from benchmarks.grid import Entry
from benchmarks.runs import Run
from schemas.training import EvaluateConfig, TrainConfig
from tests.checkerboard import checkerboard


def test_each_round_leaves_other_users_out_of_training(tmp_path, monkeypatch):
    data = BenchData("board", checkerboard(tmp_path), None, "", None)
    config = TrainConfig.model_validate(
        {"alignment": [], "epochs": 40, "dim": 8, "learning_rate": 0.02, "eval_every": 5}
    )
    run = Run(Entry(data="board", backbone="lightgcn", alignment="none", seed=0, config=config), data, EvaluateConfig())
    trained, seen = fold_in._train, []

    def remembering(run, part):
        seen.append(set(part.train.users.tolist()) | set(part.val.users.tolist()))
        return trained(run, part)

    monkeypatch.setattr(fold_in, "_train", remembering)
    rounds = list(fold_in.measure(run, 10))
    all_users, *others = seen
    assert len(all_users) == 40
    tested = [set(scores[fold_in.TRAINED].users.tolist()) for scores in rounds]
    assert all(not (users & known) for users, known in zip(tested, others, strict=True))
    assert sum(map(len, tested)) == len(set().union(*tested)) == len(torch.unique(data.interactions.test.users))

    text = fold_in.table("board", rounds)
    assert "| board | trained on them | 20 |" in text
    pooled = fold_in._pooled([scores[fold_in.CHOSEN] for scores in rounds]).means()
    assert pooled["recall@20"] > 0.9, "a history of even items asks for the even item that is missing"
