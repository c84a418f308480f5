"""Speed comparisons: all methods in one run, on the same data, with interleaved repeats; medians are reported."""

import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from benchmarks.data import BenchData
from benchmarks.peer_plain_loop import PlainLightGCN
from benchmarks.peer_recbole import RecBoleLightGCN, ensure_environment
from benchmarks.tables import markdown
from darec.common.interactions import Interactions, Pairs, Representations
from darec.common.progress import Progress
from darec.common.recipes import configure
from darec.evaluation.protocol import rank, score
from darec.training.trainer import Trainer
from schemas.training import TrainConfig

CPU = torch.device("cpu")
DIM, BATCH = 32, 4096
RLMREC_EPOCH = 5.6 / 3.9
"""The ratio of RLMRec's LightGCN epoch to RecBole's, measured together on Beauty with these settings; RLMRec is not a
package.
"""
RLMREC_EVALUATION = 10.6 / 14
"""The same for a full evaluation: the fastest of RLMRec's (10.6 to 16.7 s) over the slowest of RecBole's (11 to 14 s),
which ranked one user at a time, as is its default."""
_CUTOFFS = (5, 10, 20)
_LIGHTGCN = {"name": "lightgcn", "layers": 3}
_OURS = {
    "darec LightGCN": {"backbone": _LIGHTGCN, "alignment": []},
    "darec LightGCN, 0.8 of the edges": {"backbone": {**_LIGHTGCN, "edge_keep": 0.8}, "alignment": []},
    "darec LightGCN + DaRec, 0.8 of the edges": {"backbone": {**_LIGHTGCN, "edge_keep": 0.8}},
}
FULL, DROPPED, ALIGNED = _OURS
RECBOLE, PLAIN = "RecBole 1.2.1 LightGCN", "plain loops (RLMRec's scheme)"
RECBOLE_SINGLY = "RecBole, one user at a time (its default)"
_BLOCK_USERS = 1024
_TIMES_A_TURN = 5  # repeats per round for darec, whose measurements are short and would otherwise be noisy


Cost = tuple[float, float]
"""Wall seconds, and CPU seconds of all threads; on a busy machine only the latter are reliable."""


@dataclass
class Candidate:
    """Runs an epoch or an evaluation, and returns its cost."""

    epoch: Callable[[], Cost] | None = None
    evaluate: Callable[[], Cost] | None = None
    times_a_turn: int = 1
    epochs: list[Cost] = field(default_factory=list)
    evaluations: list[Cost] = field(default_factory=list)

    @property
    def turn(self) -> list[tuple[Callable[[], Cost], list[Cost]]]:
        """Its measurements in a round, each with the list for its cost."""
        measurements = ((self.epoch, self.epochs), (self.evaluate, self.evaluations))
        return [(run, costs) for run, costs in measurements if run for _ in range(self.times_a_turn)]


def measure(
    data: BenchData, repeats: int, progress: Progress, peers: Path | None, device: torch.device = CPU
) -> tuple[dict[str, Candidate], float]:
    """Times of all candidates, and the increase of peak memory (MB) when four times as many users are evaluated.

    Args:
        data: the training data; without text, random vectors are used.
        repeats: number of rounds, in each of which every candidate is measured, after one warm-up round.
        progress: shows the number of measurements.
        peers: the folder for RecBole's environment; None leaves RecBole out.
        device: where darec trains; the peers stay on the CPU.
    """
    growth = evaluation_growth(data.interactions)
    with ExitStack() as stack:
        candidates = _candidates(data, stack, peers, device)
        measurements = [(name, *measurement) for name, each in candidates.items() for measurement in each.turn]
        progress.start("speed", (repeats + 1) * len(measurements), "turns")
        for number in range(repeats + 1):
            for name, measurement, costs in measurements:
                cost = measurement()
                if number:
                    costs.append(cost)
                progress.advance(1, f"{name} {cost[0]:.2f} s")

    return candidates, growth


def _candidates(data: BenchData, stack: ExitStack, peers: Path | None, device: torch.device) -> dict[str, Candidate]:
    found = {name: _ours(data, name, device) for name in _OURS}
    plain = PlainLightGCN(data.interactions, DIM, BATCH)
    found[PLAIN] = Candidate(_timed(plain.epoch), _timed(plain.evaluate))
    if peers is not None:
        python, threads = ensure_environment(peers / "venv"), torch.get_num_threads()
        in_blocks, singly = (
            stack.enter_context(RecBoleLightGCN(data.interactions, peers / name, python, DIM, BATCH, users, threads))
            for name, users in (("data", _BLOCK_USERS), ("singly", 1))
        )
        found[RECBOLE] = Candidate(in_blocks.epoch, in_blocks.evaluate)
        found[RECBOLE_SINGLY] = Candidate(evaluate=singly.evaluate)

    return found


def _ours(data: BenchData, name: str, device: torch.device) -> Candidate:
    common = {"dim": DIM, "batch_size": BATCH, "device": device.type}
    config = configure(TrainConfig, _OURS[name], common, where="bench speed")
    text = data.text or _random_text(data.interactions)
    trainer = Trainer(config, data.interactions, text, None, device)
    evaluate = _timed(lambda: _evaluate(trainer)) if name == FULL else None
    return Candidate(_timed(trainer.run_epoch), evaluate, times_a_turn=_TIMES_A_TURN)


def _timed(action: Callable[[], object]) -> Callable[[], Cost]:
    def timed() -> Cost:
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        return time.perf_counter() - wall, time.process_time() - cpu

    return timed


def _evaluate(trainer: Trainer) -> None:
    data = trainer.interactions
    ranking = rank(trainer.model.represent(), data.train, data.test, max(_CUTOFFS))
    score(ranking, data.test, data.n_items, _CUTOFFS, ("recall", "ndcg")).means()


def _random_text(data: Interactions) -> Representations:
    return Representations(torch.nn.functional.normalize(torch.randn(data.n_nodes, 384), dim=-1), data.n_users)


def evaluation_growth(data: Interactions) -> float:
    """The increase of this process's peak memory, in MB, when four times as many users are ranked and scored."""
    many = Interactions(
        4 * data.n_users, data.n_items, *(_copies(data, part) for part in (data.train, data.val, data.test))
    )
    nodes = torch.randn(many.n_nodes, DIM)
    once = Representations(nodes[3 * data.n_users :], data.n_users)
    peaks = []
    for final, each in ((once, data), (Representations(nodes, many.n_users), many)):
        ranking = rank(final, each.train, each.test, max(_CUTOFFS))
        score(ranking, each.test, each.n_items, _CUTOFFS, ("recall", "ndcg"))
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    return peaks[1] - peaks[0]


def _copies(data: Interactions, pairs: Pairs) -> Pairs:
    shifts = torch.arange(4).repeat_interleave(len(pairs)) * data.n_users
    return Pairs(pairs.users.repeat(4) + shifts, pairs.items.repeat(4))


def table(candidates: dict[str, Candidate], growth: float, data: Interactions, device: torch.device = CPU) -> str:
    """Medians, and their ratios to darec's, in Markdown."""
    epochs = {name: _median(each.epochs) for name, each in candidates.items() if each.epochs}
    evaluations = {name: _median(each.evaluations) for name, each in candidates.items() if each.evaluations}
    if RECBOLE in epochs:
        derived = f"RLMRec LightGCN (RecBole x {RLMREC_EPOCH:.2f}; singly x {RLMREC_EVALUATION:.2f})"
        epochs[derived] = _times(epochs[RECBOLE], RLMREC_EPOCH)
        evaluations[derived] = _times(evaluations[RECBOLE_SINGLY], RLMREC_EVALUATION)

    rows = []
    for name in epochs | evaluations:
        reference = epochs[FULL] if name in (FULL, RECBOLE) else epochs[DROPPED]
        epoch = _cells(epochs[name], reference) if name in epochs else ["", ""]
        evaluation = _cells(evaluations[name], evaluations[FULL]) if name in evaluations else ["", ""]
        rows.append([name, *epoch, *evaluation])

    head = ["", "an epoch, s (CPU)", "over darec's (CPU)", "a full evaluation, s (CPU)", "over darec's (CPU)"]

    rounds, where = len(candidates[PLAIN].evaluations), f"{torch.get_num_threads()} threads"
    if device.type == "cuda":
        where = f"darec on {torch.cuda.get_device_name(device)}, peers on {where}"
    size = f"{len(data.train):,} train pairs, {data.n_users:,} users x {data.n_items:,} items, dim {DIM}"
    notes = (
        f"{size}, batch {BATCH:,}, {where}.",
        f"Medians of {rounds} interleaved rounds; in each round darec is measured {_TIMES_A_TURN} times.",
        "RecBole uses all edges in an epoch, RLMRec 0.8 of them; each is compared with darec's LightGCN on as many.",
        f"Peak memory of evaluating four times as many users: {growth:+.0f} MB.",
    )
    return markdown(head, rows) + "\n" + "\n".join(notes) + "\n"


def _median(costs: list[Cost]) -> Cost:
    return median(wall for wall, _ in costs), median(cpu for _, cpu in costs)


def _times(cost: Cost, factor: float) -> Cost:
    return cost[0] * factor, cost[1] * factor


def _cells(cost: Cost, reference: Cost) -> list[str]:
    return [f"{cost[0]:.2f} ({cost[1]:.2f})", f"{cost[0] / reference[0]:.2f} x ({cost[1] / reference[1]:.2f} x)"]
