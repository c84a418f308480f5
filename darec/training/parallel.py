"""Training by several processes, each with some columns of all vectors or with all (`darec.common.column_split`).

The caller writes the inputs of training to a folder, and waits for the result of every process there. The processes are
started by the caller, or by torchrun on any number of machines that share the folder:

    torchrun --nnodes 2 --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint HOST:29400 -m darec.training.worker DIR
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from darec.common.device import pick
from darec.common.errors import DarecError, TransientError, UserError
from darec.common.interactions import Interactions, Pairs, Representations
from darec.common.progress import Progress
from darec.model.propagation import Adjacency
from darec.training import checkpoint
from darec.training.history import History
from darec.training.trainer import DivergedError, Listener, Trained
from schemas.training import TrainConfig

JOB, MESSAGES = "job.safetensors", "messages.jsonl"
_PAUSE = 0.1  # interval between two checks of the processes, in seconds
_GRACE = 5.0  # seconds to wait for the error of another process, which may be the cause
ERRORS = {each.__name__: each for each in (DarecError, UserError, TransientError, DivergedError)}

_logger = logging.getLogger(__name__)


def train(
    config: TrainConfig,
    interactions: Interactions,
    text: Representations | None,
    adjacency: Adjacency | None,
    warm: Tensor | None,
    last_epoch: int | None,
    resume: Path | None,
    progress: Progress,
    listener: Listener | None,
) -> Trained:
    """Runs `darec.training.run.train` with `config.processes` processes, which have all ended when it returns or
    raises.

    Raises:
        DarecError: a process failed; or what it raised itself.
        TransientError: a process was killed.
    """
    with TemporaryDirectory() if resume is None else nullcontext(resume.with_suffix("")) as place:
        folder = Path(place)
        rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        job: dict[str, Any] = {
            "config": config.model_dump(mode="json"),
            "last_epoch": last_epoch,
            "resume": str(resume) if resume else None,
            "size": [interactions.n_users, interactions.n_items],
            "train": _columns(interactions.train),
            "val": _columns(interactions.val),
            "dislikes": _columns(interactions.dislikes) if interactions.dislikes else None,
            "graph": adjacency.state() if adjacency else None,
            "text": text.nodes if text else None,
            "warm": warm,
        }
        checkpoint.save(job, folder / JOB)
        del job

        with _started(config, folder) if config.launcher == "local" else _awaited(config, folder) as workers:
            _follow(folder, config.processes, workers, progress, listener)
        holders = config.processes if config.divides_columns else 1
        parts = [checkpoint.load(part_of(folder, rank)) for rank in range(holders)]
        return _joined([part for part in parts if part is not None], interactions.n_users)


def _columns(pairs: Pairs) -> dict[str, Tensor]:
    return {"users": pairs.users.clone(), "items": pairs.items.clone()}


def part_of(folder: Path, rank: int) -> Path:
    """Where a process leaves what it holds of the trained model."""
    return folder / f"part-{rank}.safetensors"


def _joined(parts: Sequence[checkpoint.State], n_users: int) -> Trained:
    """Joins the results: each part has some columns; everything else is equal in all parts."""
    first = parts[0]
    if len(parts) > 1 and checkpoint.SPLIT in first["state"]:
        first["state"][checkpoint.SPLIT] = torch.cat([part["state"][checkpoint.SPLIT] for part in parts], 1)
    return Trained(
        final=Representations(torch.cat([part["final"] for part in parts], 1), n_users),
        state=first["state"],
        history=History.of_state(first["history"]).table(),
        **{name: first[name] for name in ("best_epoch", "epochs", "validation", "batch_size")},
    )


@contextmanager
def _started(config: TrainConfig, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Starts the processes on this machine. They end with the block, and with this process if it is killed."""
    size = config.processes
    if pick(config.device, "train.device").type == "cuda" and torch.cuda.device_count() < size:
        found = torch.cuda.device_count()
        hint = f"set train.processes to at most {found}, or train.device to cpu"
        raise UserError(f"{size} processes need {size} GPUs, and there are {found}", where="train.processes", hint=hint)

    options = ["--meet", str(folder / "meeting"), "--parent", str(os.getpid())]
    command = [sys.executable, "-m", "darec.training.worker", str(folder), *options]
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(size):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            environment = os.environ | {name: str(value) for name, value in place.items()}
            # A separate process group: Ctrl-C in the terminal reaches only this process, which then ends them.
            workers.append(subprocess.Popen(command, env=environment, process_group=0))
        yield workers
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.wait()


@contextmanager
def _awaited(config: TrainConfig, folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """No local processes: torchrun starts them."""
    command = (
        f"torchrun --nnodes MACHINES --nproc-per-node PROCESSES --rdzv-backend c10d --rdzv-endpoint HOST:PORT "
        f"-m darec.training.worker {folder}"
    )
    _logger.warning("train: waiting for %d processes, started by: %s", config.processes, command)
    yield []


def _follow(
    folder: Path,
    size: int,
    workers: Sequence[subprocess.Popen[bytes]],
    progress: Progress,
    listener: Listener | None,
) -> None:
    """Forwards the messages of the first process until every process has written its part.

    Raises:
        DarecError: what a process raised, or that it failed.
        TransientError: a process was killed.
    """
    heard, failed = 0, 0.0
    while True:
        complete = all(part_of(folder, rank).exists() for rank in range(size))
        heard = _hear(folder / MESSAGES, heard, progress, listener)
        if complete:
            return
        _raise_told(folder)
        codes = [worker.poll() for worker in workers]
        for rank, code in enumerate(codes):
            if code is not None and code < 0:
                hint = "it may have run out of memory; run again: training continues from its checkpoint"
                what = f"process {rank} of {size} was ended by {signal.Signals(-code).name}"
                raise TransientError(what, where="train.processes", hint=hint)
        if any(codes):
            failed = failed or time.monotonic()
            if time.monotonic() - failed > _GRACE:
                rank = next(rank for rank, code in enumerate(codes) if code)
                raise DarecError(f"process {rank} of {size} failed", where="train", hint="see its messages above")
        time.sleep(_PAUSE)


def _hear(path: Path, heard: int, progress: Progress, listener: Listener | None) -> int:
    """Handles the messages from byte `heard` on. Returns the position after them."""
    if not path.exists():
        return heard

    with path.open("rb") as file:
        file.seek(heard)
        lines = file.read()

    whole = lines[: lines.rfind(b"\n") + 1]
    for line in whole.splitlines():
        message = json.loads(line)
        if "start" in message:
            progress.start(*message["start"])
        elif "advance" in message:
            progress.advance(*message["advance"])
        elif "log" in message:
            logging.getLogger(message["log"]).log(message["level"], message["text"])
        elif listener:
            listener(message["epoch"], message["values"])

    return heard + len(whole)


def _raise_told(folder: Path) -> None:
    """Raises the error that a process has written, if any."""
    for path in sorted(folder.glob("error-*.json")):
        error = json.loads(path.read_text())
        raise ERRORS[error["kind"]](error["what"], where=error["where"], hint=error["hint"])
