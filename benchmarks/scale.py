"""The cost of every stage by the size of the data: synthetic logs, the pipeline's stages in child processes, exponents.

No LLM is asked: text vectors are random, and profiles come from an engine that answers at once. Each stage runs in a
separate process, so that its CPU seconds and peak memory can be measured. The executor is that of the pipeline, so a
second call reads finished stages from the store, with their recorded costs.
"""

import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from math import log, nan
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from benchmarks import llm_rows
from benchmarks.tables import markdown
from darec.artifacts import files
from darec.artifacts.formats import Vectors
from darec.artifacts.store import Artifact, Store
from darec.common.errors import DarecError
from darec.common.files import replacing
from darec.common.overrides import parse_settings
from darec.common.progress import Progress, Silent
from darec.common.recipes import configure
from darec.common.warnings import warn_once
from schemas.recipe import Recipe
from schemas.reports import StageReport
from stages.contract import Outcome, Stage, Task
from stages.declarations import EMBED
from stages.execute import Job, execute, stage_job
from stages.plan import plan
from stages.registry import needed, task_named
from stages.walk import run_task

PER_USER = 50
"""Interactions per user, and per item."""
GROUPS = 100
"""Groups of users and items: most of a user's interactions are with items of the same group, which
a model can learn.
"""
_OWN_GROUP = 0.7
_USER_SKEW, _ITEM_SKEW = 1.5, 2.5  # exponent of uniform draws: a few users and items have most of the interactions
_CHUNK = 2**20
Done = TypeVar("Done")
_COSTS = "costs.json"


@dataclass(frozen=True)
class Cost:
    """The cost of one stage on logs of one size."""

    interactions: int
    stage: str
    seconds: float
    """Wall seconds."""
    cpu_seconds: float
    """CPU seconds of all threads and child processes."""
    peak_mb: float
    """Largest resident memory of the process that ran the stage."""


def write_log(path: Path, interactions: int, seed: int = 0) -> None:
    """Writes a log with the columns user_id, item_id and timestamp, in order of time, in chunks."""
    users = items = max(interactions // PER_USER, GROUPS)
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer: pq.ParquetWriter | None = None
    for start in range(0, interactions, _CHUNK):
        table = _rows(rng, start, min(_CHUNK, interactions - start), users, items).to_arrow()
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _rows(rng: np.random.Generator, start: int, count: int, users: int, items: int) -> pl.DataFrame:
    user = (users * rng.random(count) ** _USER_SKEW).astype(np.int64)
    position = rng.random(count) ** _ITEM_SKEW
    own = user % GROUPS + GROUPS * (items // GROUPS * position).astype(np.int64)
    item = np.where(rng.random(count) < _OWN_GROUP, own, (items * position).astype(np.int64))
    return pl.DataFrame({"user": user, "item": item}).select(
        user_id=_shuffled("user", users, "u"),
        item_id=_shuffled("item", items, "i"),
        timestamp=1_500_000_000 + pl.int_range(start, start + count, dtype=pl.Int64),
    )


def _shuffled(column: str, size: int, prefix: str) -> pl.Expr:
    """Ids in another order than the numbers, so that popularity and groups do not follow from the order of ids."""
    factor = next(prime for prime in (999_983, 999_979, 999_961) if size % prime)
    return pl.lit(prefix) + (pl.col(column) * factor % size).cast(pl.String).str.zfill(8)


def recipe_for(
    folder: Path, interactions: int, text_width: int = 0, settings: Sequence[str] = (), *, profiles: bool = False
) -> Recipe:
    """The recipe of one size: its log (written if it does not exist), its store, one epoch; DaRec if there is text.

    Args:
        folder: where logs and stores are.
        interactions: the size.
        text_width: width of the text vectors; with 0 there is no text.
        settings: overrides of the recipe.
        profiles: whether items have descriptions, for the stages of the LLM.

    Raises:
        UserError: one of `settings` is not an override (`path=value`).
    """
    log_file = folder / f"log-{interactions}.parquet"
    if not log_file.exists():
        with replacing(log_file) as draft:
            write_log(draft, interactions)
    data: dict[str, Any] = {
        "source": "parquet",
        "interactions": str(log_file),
        "interaction_columns": {"timestamp": "timestamp"},
    }
    if profiles:
        data["items"] = str(folder / f"items-{interactions}.parquet")
        if not Path(data["items"]).exists():
            llm_rows.write_items(Path(data["items"]), pl.scan_parquet(log_file))
    train = {"epochs": 1} | ({} if text_width else {"alignment": []})
    runtime = {"store": str(folder / f"store-{interactions}"), "verify": "sizes", "min_free_gb": 0.01}
    gate = {"reference": None}  # texts are random, and may make the model worse
    sections = {"data": data, "train": train, "gate": gate, "runtime": runtime, "llm": llm_rows.SETTINGS}
    return configure(Recipe, sections, *parse_settings(settings), where="--set")


def measure(recipe: Recipe, interactions: int, until: str, text_width: int) -> Iterator[Cost]:
    """Runs the stages up to `until`, each in a separate process, and yields their costs.

    The stages of the LLM run only if one of them is `until`; each comes after a status that counts its rows.
    """
    store, done, last = Store(recipe.runtime.store), dict[str, Artifact](), ""
    for task in needed(recipe, until):
        if task.name in llm_rows.STAGES and until not in llm_rows.STAGES:
            continue
        artifact, cost = _finished(task, recipe, done, store, text_width), None
        if task.name in llm_rows.STAGES:
            status = _alone(_plan, task.name, recipe, interactions) if artifact is None else None
            yield from _noted(store, f"status {task.name}-{last}", status)
        if artifact is None:
            artifact, cost = _alone(_run, task.name, recipe, done, interactions, text_width)
        if artifact is not None:  # publish has no artifact
            done[task.name], last = artifact, artifact.key
        if task.name != EMBED.name:
            yield from _noted(store, f"{task.name}-{last}", cost)


def _alone(work: Callable[..., Done], *arguments: Any) -> Done:
    """The result of `work` in a new process. Raises DarecError if the process is killed."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(work, *arguments).result()
        except BrokenProcessPool as error:
            hint = "it may have run out of memory: try a smaller size; finished stages are kept"
            raise DarecError("the process was killed", where=str(arguments[0]), hint=hint) from error


def _plan(name: str, recipe: Recipe, interactions: int) -> Cost:
    """The cost of a plan, start of the process included."""
    started = time.perf_counter()
    plan(recipe, Store(recipe.runtime.store), name)
    return Cost(
        interactions, f"status, {name}", round(time.perf_counter() - started, 2), round(_cpu_seconds(), 2), _peak_mb()
    )


def _finished(
    task: Task, recipe: Recipe, upstream: dict[str, Artifact], store: Store, text_width: int
) -> Artifact | None:
    """The artifact of an earlier call, so that no process has to be started."""
    if task.name == EMBED.name:
        return _random_vectors(upstream["split"], text_width).find(store)
    return stage_job(task, recipe, upstream, store).find(store) if isinstance(task, Stage) else None


def _noted(store: Store, name: str, cost: Cost | None) -> Iterator[Cost]:
    """The cost of a task that did work, which is stored next to the artifact store; for a hit, the stored cost."""
    path = store.root / _COSTS
    kept = json.loads(path.read_text()) if path.exists() else {}
    if cost is not None:
        kept[name] = asdict(cost)
        with replacing(path) as draft:
            draft.write_text(json.dumps(kept, indent=1))
    if name in kept:
        yield Cost(**kept[name])
    else:  # an earlier call was killed between the end of the stage and this file
        warn_once(f"the cost of {name} was not recorded; to measure all stages again, delete {store.root}")


def _run(
    name: str, recipe: Recipe, upstream: dict[str, Artifact], interactions: int, text_width: int
) -> tuple[Artifact | None, Cost | None]:
    """Runs one task in the child process; the cost of a hit is not reported.

    Raises:
        DarecError: the gate refuses the release, so that later tasks cannot be measured.
    """
    store, started, before = Store(recipe.runtime.store), time.perf_counter(), _cpu_seconds()
    llm_rows.answer_at_once()
    if name == EMBED.name:
        result = execute(_random_vectors(upstream["split"], text_width), store)
    else:
        result = run_task(task_named(name), recipe, upstream, store, Silent())
    if result.cached:
        return result.artifact, None
    if result.state == "refused":
        raise DarecError("; ".join(result.why), where=name, hint="loosen the gate with --set gate.…")
    seconds, cpu = time.perf_counter() - started, _cpu_seconds() - before
    return result.artifact, Cost(interactions, name, round(seconds, 2), round(cpu, 2), _peak_mb())


def _random_vectors(split: Artifact, width: int) -> Job:
    def work(out: Path, scratch: Path, progress: Progress) -> Outcome[StageReport]:
        rng, names = np.random.default_rng(0), (files.USER_VOCABULARY.name, files.ITEM_VOCABULARY.name)
        rows = [pl.scan_parquet(split.path / name).select(pl.len()).collect().item() for name in names]
        sides = [rng.standard_normal((count, width), np.float32) for count in rows]
        files.TEXT_VECTORS.format.write(Vectors(*sides), out / files.TEXT_VECTORS.name)
        return Outcome(sum(map(len, sides)), StageReport())

    return Job(EMBED.name, {"random": width, "split": split.key}, (files.TEXT_VECTORS.name,), work, checksums=False)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak_mb() -> float:
    """Peak resident memory of this process; `ru_maxrss` would include that of the parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)


def exponent(small: Cost, large: Cost) -> float:
    """The exponent of the number of interactions in the growth of CPU seconds: 1 is linear; nan if one is too short to
    be measured.
    """
    if not small.cpu_seconds or not large.cpu_seconds:
        return nan
    return log(large.cpu_seconds / small.cpu_seconds) / log(large.interactions / small.interactions)


def table(costs: Sequence[Cost]) -> str:
    """CPU seconds and peak memory of each stage and size, and the exponents up to the largest size, in Markdown."""
    sizes = sorted({cost.interactions for cost in costs})
    found = {(cost.stage, cost.interactions): cost for cost in costs}
    head = ["stage", *(f"{shown(size)}: CPU s, MB" for size in sizes)]
    head += [f"exponent, {shown(size)} to {shown(sizes[-1])}" for size in sizes[:-1]]
    rows = []
    for stage in dict.fromkeys(cost.stage for cost in costs):
        each = [found.get((stage, size)) for size in sizes]
        cells = [f"{cost.cpu_seconds:,.1f}, {cost.peak_mb:,.0f}" if cost else "" for cost in each]
        powers = [f"{exponent(cost, each[-1]):.2f}" if cost and each[-1] else "" for cost in each[:-1]]
        rows.append([stage, *cells, *powers])
    return markdown(head, rows)


def shown(interactions: int) -> str:
    """A number of interactions in short form, such as 5M."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if interactions >= size:
            return f"{interactions / size:g}{letter}"
    return str(interactions)


def parsed(size: str) -> int:
    """The reverse of `shown`: `5M`, `200k` or plain digits. Raises ValueError for anything else, and for 0."""
    factors = {"M": 1_000_000, "k": 1_000}
    factor = factors.get(size[-1:], 1)
    try:
        number = round(float(size.removesuffix("M").removesuffix("k")) * factor)
    except (ValueError, OverflowError):
        number = 0
    if number < 1:
        raise ValueError(f"{size!r} is not a number of interactions")
    return number
