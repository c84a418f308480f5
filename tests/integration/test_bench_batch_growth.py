"""`darec bench batch-growth`: runs with larger batches on logs of mixed tastes."""

import json

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.batch_growth import Outcome, compare, mixed_tastes, table
from pipelines.cli.bench import app


def test_users_have_few_of_the_topics():
    data = mixed_tastes(40_000)
    topics = data.n_items // 100
    assert len(data.train) == pytest.approx(40_000, rel=0.1)
    assert len(data.val) == pytest.approx(10_000, rel=0.1)
    busiest = int(torch.bincount(data.train.users).argmax())
    own = data.train.items[data.train.users == busiest] % topics
    shares = torch.bincount(own, minlength=topics).float().sort(descending=True).values / len(own)
    assert shares[:4].sum() > 0.7
    again = mixed_tastes(40_000)
    assert torch.equal(again.train.items, data.train.items)


def test_runs_are_kept_and_compared(tmp_path):
    arguments = ["batch-growth", "--pairs", "8k", "--factor", "1", "--factor", "2", "--epochs", "2"]
    first = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path)])
    assert first.exit_code == 0, first.output
    kept = sorted(tmp_path.glob("*.json"))
    assert [path.stem for path in kept] == ["8k-32-x1-50-2", "8k-32-x2-50-2"]
    kept[0].write_text(json.dumps(json.loads(kept[0].read_text()) | {"recall": 0.5}))
    assert next(compare(tmp_path, 8_000, [1], 2))[1].recall == 0.5


def test_table_of_hand_made_outcomes():
    plain, grown = Outcome(1000, 4, 9, 7, 0.2, 3.0), Outcome(1000, 2, 12, 10, 0.199, 1.5)
    lines = table({1: plain, 8: grown}).splitlines()
    assert lines[2] == "| 1,000 | x 1 | 4 | 9, 7 | 0.2000 | 3.0 |"
    assert lines[3] == "| 1,000 | x 8 | 2 | 12, 10 | 0.1990 (-0.5%) | 1.5 |"


def test_a_size_that_is_none_is_refused():
    result = CliRunner().invoke(app, ["batch-growth", "--pairs", "many"])
    assert result.exit_code != 0
