"""A worker process of training with several processes; see `darec.training.parallel`."""

import argparse
import json
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from darec.common.column_split import ColumnSplit, Replicas
from darec.common.device import pick
from darec.common.errors import DarecError, UserError
from darec.common.files import replacing
from darec.common.interactions import Interactions, Pairs, Representations
from darec.common.processes import die_with_parent
from darec.model.propagation import Adjacency
from darec.training import checkpoint
from darec.training.parallel import ERRORS, JOB, MESSAGES, part_of
from darec.training.trainer import Trainer
from schemas.training import TrainConfig


class _Teller(logging.Handler):
    """The messages of the first process to the caller: progress, evaluations and logs, one JSON object per line."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        self._file = path.open("a", buffering=1)

    def _tell(self, **message: Any) -> None:
        self._file.write(json.dumps(message) + "\n")

    def start(self, label: str, total: int, unit: str = "rows") -> None:
        self._tell(start=[label, total, unit])

    def advance(self, count: int = 1, note: str = "") -> None:
        self._tell(advance=[count, note])

    def evaluated(self, epoch: int, values: dict[str, float]) -> None:
        self._tell(epoch=epoch, values=values)

    def close(self) -> None:
        self._file.close()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(log=record.name, level=record.levelno, text=record.getMessage())


@contextmanager
def _teller(path: Path, rank: int) -> Iterator[_Teller | None]:
    """The messages of the first process; None in the others."""
    if rank != 0:
        yield None
        return

    teller, logger = _Teller(path), logging.getLogger("darec")
    logger.addHandler(teller)
    logger.setLevel(logging.INFO)
    try:
        yield teller
    finally:
        logger.removeHandler(teller)
        teller.close()


def work(folder: Path, meeting: Path | None = None) -> None:
    """Takes part in the training as one of its processes, and leaves in the folder what this one holds of the model.

    Args:
        folder: the folder that `train` wrote.
        meeting: a file for the rendezvous of the processes of one machine; by default torchrun's environment is used.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        job = checkpoint.load(folder / JOB)
        if job is None:
            raise UserError("there is no training to join", where=str(folder), hint="start `darec run` first")
        config = TrainConfig.model_validate(job["config"])
        if size != config.processes:
            hint = "start train.processes processes"
            raise UserError(f"{size} processes were started, not {config.processes}", where="torchrun", hint=hint)

        with _group(config, rank, size, meeting) as device, _teller(folder / MESSAGES, rank) as teller:
            split = ColumnSplit(rank, size) if config.divides_columns else Replicas(rank, size)
            trainer = _trainer(config, job, device, split)
            if teller:
                trainer.progress, trainer.listener = teller, teller.evaluated
            trained = trainer.fit(Path(job["resume"]) if job["resume"] else None)

        names = ("state", "best_epoch", "epochs", "validation", "batch_size")
        part = {name: getattr(trained, name) for name in names}
        part |= {"final": trained.final.nodes, "history": trainer.history.state()}
        needed = split.is_first or config.divides_columns
        checkpoint.save(part if needed else {}, part_of(folder, rank))
    except DarecError as error:
        kind = type(error).__name__ if type(error).__name__ in ERRORS else DarecError.__name__
        told = {"kind": kind, "what": error.what, "where": error.where, "hint": error.hint}
        with replacing(folder / f"error-{rank}.json") as draft:
            draft.write_text(json.dumps(told))
        raise SystemExit(error.exit_code) from error


def _trainer(config: TrainConfig, job: checkpoint.State, device: torch.device, split: ColumnSplit) -> Trainer:
    n_users, n_items = job["size"]
    train_pairs, val, dislikes = (Pairs(**job[part]) if job[part] else None for part in ("train", "val", "dislikes"))
    assert train_pairs is not None and val is not None
    no_test = Pairs(val.users[:0], val.items[:0])
    interactions = Interactions(n_users, n_items, train_pairs, val, no_test, dislikes)
    text = Representations(job["text"], n_users) if job["text"] is not None else None
    graph = Adjacency.of_state(job["graph"], interactions.n_nodes) if job["graph"] else None

    torch.manual_seed(config.seed)
    trainer = Trainer(config, interactions, text, graph, device, split)
    trainer.last_epoch = min(config.epochs, job["last_epoch"] or config.epochs)
    trainer.warm_start(job["warm"])
    return trainer


@contextmanager
def _group(config: TrainConfig, rank: int, size: int, meeting: Path | None) -> Iterator[torch.device]:
    """Initialises the process group for the block: NCCL between GPUs, Gloo between CPUs."""
    device = pick(config.device, "train.device")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))

    if meeting:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{meeting}" if meeting else "env://",
        rank=rank,
        world_size=size,
    )

    try:
        yield device
    finally:
        distributed.destroy_process_group()


def main() -> None:
    """The entry point of a process."""
    parser = argparse.ArgumentParser(description="A worker process of training with several processes.")
    parser.add_argument("folder", type=Path, help="folder that `darec run` named")
    parser.add_argument("--meet", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.parent:
        die_with_parent(signal.SIGKILL, options.parent)
    work(options.folder, options.meet)


if __name__ == "__main__":
    main()
