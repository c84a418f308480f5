"""RecBole in a separate virtual environment, controlled through a pipe.

It needs older versions of NumPy and SciPy than darec, but uses PyTorch from darec's environment, so that both run the
same kernels.
"""

import json
import subprocess
import sysconfig
import venv
from pathlib import Path
from types import TracebackType

import polars as pl

from darec.common.errors import DarecError, UserError
from darec.common.interactions import Interactions, Pairs

_PACKAGES = ("recbole==1.2.1", "numpy<2", "scipy<1.12", "pandas<2.3", "colorlog==4.7.2", "colorama==0.4.4")
_FURTHER = ("thop", "tabulate", "plotly", "texttable", "tensorboard", "absl-py")
_WORKER = Path(__file__).with_name("recbole_worker.py")


def ensure_environment(folder: Path) -> Path:
    """The interpreter of RecBole's environment, which is created if it does not exist (a download of about 120 MB).

    Raises:
        UserError: the packages cannot be installed.
    """
    python, done = folder / "bin" / "python", folder / ".ready"
    if done.exists():
        return python

    venv.create(folder, with_pip=True, clear=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "darec-torch.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # after its own packages
    command = [python, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-deps", *_PACKAGES, *_FURTHER]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        hint = "check the network, or use `darec bench speed --no-recbole`"
        raise UserError(f"RecBole cannot be installed: {answer.stderr.strip()[-300:]}", where=str(folder), hint=hint)

    done.touch()
    return python


class RecBoleLightGCN:
    """RecBole's LightGCN in another process; a context manager.

    It ranks `block_users` users at a time; with RecBole's default it is one at a time here.
    """

    def __init__(
        self,
        data: Interactions,
        folder: Path,
        python: Path,
        dim: int,
        batch_size: int,
        block_users: int,
        threads: int,
    ) -> None:
        self._python, self._threads = python, threads
        self._folder = folder
        _write_atomic(data, folder / "peer")
        self._settings = {
            "dataset": "peer",
            "data_path": str(folder),
            "checkpoint_dir": str(folder),
            "benchmark_filename": ["train", "valid", "test"],
            "load_col": {"inter": ["user_id", "item_id"]},
            "embedding_size": dim,
            "n_layers": 3,
            "train_batch_size": batch_size,
            "eval_batch_size": block_users * data.n_items,
            "metrics": ["Recall", "NDCG"],
            "topk": [5, 10, 20],
            "eval_args": {"order": "RO", "group_by": "user", "mode": "full", "split": {"RS": [0.8, 0.1, 0.1]}},
            "state": "ERROR",
            "use_gpu": False,
        }

    def __enter__(self) -> "RecBoleLightGCN":
        threads = {"OMP_NUM_THREADS": str(self._threads), "MKL_NUM_THREADS": str(self._threads)}
        self._process = subprocess.Popen(
            [self._python, "-P", str(_WORKER)],  # -P: this folder must not hide the package recbole
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self._folder / "recbole.log").open("w"),
            text=True,
            cwd=self._folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self._folder), **threads},
        )
        self._say(json.dumps(self._settings))
        if self._hear() != "ready":
            raise DarecError("RecBole did not start", where=str(self._folder / "recbole.log"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def epoch(self) -> tuple[float, float]:
        """Wall and CPU seconds of one epoch, measured in the process."""
        return self._ask("epoch")

    def evaluate(self) -> tuple[float, float]:
        """Wall and CPU seconds of a full evaluation on test, measured in the process."""
        return self._ask("evaluate")

    def _ask(self, request: str) -> tuple[float, float]:
        self._say(request)
        wall, cpu = map(float, self._hear().split())
        return wall, cpu

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise DarecError("RecBole ended early", where=str(self._folder / "recbole.log"), hint="see its log")
        return line.splitlines()[-1]


def _write_atomic(data: Interactions, folder: Path) -> None:
    """The split as RecBole's atomic files."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, pairs in {"train": data.train, "valid": data.val, "test": data.test}.items():
        _atomic(pairs).write_csv(folder / f"peer.{part}.inter", separator="\t")


def _atomic(pairs: Pairs) -> pl.DataFrame:
    return pl.DataFrame({"user_id:token": pairs.users.numpy(), "item_id:token": pairs.items.numpy()})
