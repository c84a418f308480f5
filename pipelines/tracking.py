"""Sends runs to MLflow, if the recipe has a tracker. A failure is only a warning: no run fails
because of its tracker.
"""

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from darec.artifacts import files
from darec.common.errors import UserError
from darec.common.extras import extra
from schemas.night import Night
from schemas.recipe import Recipe
from schemas.reports import EvaluationReport
from schemas.secret import redacted
from stages.execute import Result

THREAD = "tracker"
"""Name of the thread that sends."""
_RUN = "darec.run"  # the tag that identifies the run of a report
_ADDRESS = "MLFLOW_TRACKING_URI"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",  # of its messages about the tables of a new database
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # timeout of a request, in seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # an unavailable server delays a run by at most a minute
}
_SECONDS = 60  # timeout for sending a run or its report
_LONGEST = 500  # maximum characters of a setting in all versions of MLflow
_MOST_METRICS, _MOST_SETTINGS = 1000, 100  # maximum numbers per request
_CURVES = (files.HISTORY, files.REFERENCE_HISTORY, files.REFIT_HISTORY)

_logger = logging.getLogger(__name__)


def track_run(recipe: Recipe, run: str, night: Night, results: Sequence[Result]) -> None:
    """Sends a completed or failed run: settings, metrics, curves, seconds and remarks."""
    _harmless(recipe, lambda: _send(recipe, run, night, results))


def track_report(recipe: Recipe, run: str, report: Path) -> None:
    """Adds the HTML report to the run of that name."""
    _harmless(recipe, lambda: _add(recipe, run, report))


def _harmless(recipe: Recipe, action: Callable[[], None]) -> None:
    """Runs `send` with a timeout. MLflow itself retries for minutes if a database is unavailable."""
    if recipe.tracking is None:
        return

    reasons: list[str] = []

    def attempt() -> None:
        try:
            action()
        except Exception as error:  # any error of a library, a database or the network
            first = (redacted(str(error)).splitlines() or [""])[0]
            reasons.append(f"{type(error).__name__}: {first}")

    thread = Thread(target=attempt, name=THREAD, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    if thread.is_alive():
        reasons.append(f"no answer in {_SECONDS} s")
    if reasons:
        _logger.warning("the run was not sent to the tracker (%s)", reasons[0])


def _send(recipe: Recipe, run: str, night: Night, results: Sequence[Result]) -> None:
    client, experiment = _open(recipe)
    entities = extra("mlflow.entities", "tracking")
    started, ended = (int(time.timestamp() * 1000) for time in (night.started, night.ended))
    tags = {_RUN: run, "outcome": night.outcome, "why": redacted(night.why), "release": night.release or ""}
    tracked = client.create_run(experiment, start_time=started, run_name=run, tags=tags).info.run_id

    settings = [entities.Param(name, text) for name, text in _settings(recipe)]
    for start in range(0, len(settings), _MOST_SETTINGS):
        client.log_batch(tracked, params=settings[start : start + _MOST_SETTINGS])
    values = [*_metrics(night, results), *_curves(results)]
    metrics = [entities.Metric(_name(name), value, ended, step) for name, value, step in values]
    for start in range(0, len(metrics), _MOST_METRICS):
        client.log_batch(tracked, metrics=metrics[start : start + _MOST_METRICS])

    remarks = [f"{result.stage}: {text}\n" for result in results for text in result.report.remarks]
    if remarks:
        client.log_text(tracked, redacted("".join(remarks)), "remarks.txt")
    client.set_terminated(tracked, "FAILED" if night.failed else "FINISHED", ended)


def _add(recipe: Recipe, run: str, report: Path) -> None:
    client, experiment = _open(recipe)
    found = client.search_runs([experiment], f"tags.`{_RUN}` = '{run}'", max_results=1)
    if found:
        client.log_artifact(found[0].info.run_id, str(report))


def _open(recipe: Recipe) -> tuple[Any, str]:
    """A client, and the id of the experiment."""
    assert recipe.tracking is not None
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = recipe.tracking.address or os.environ.get(_ADDRESS)
    if not address:
        raise UserError("the tracker has no address", where="tracking.address", hint=f"set it, or {_ADDRESS}")

    database = Path(urlsplit(address).path[1:]).resolve() if address.startswith("sqlite:") else None
    if database is not None:
        # MLflow retries for two minutes, also where no retry helps.
        database.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA user_version")

    client, name = extra("mlflow", "tracking").MlflowClient(address), recipe.tracking.experiment
    known = client.get_experiment_by_name(name)
    if known is not None:
        return client, known.experiment_id

    # Reports are stored next to a local database; otherwise MLflow would write them to the working directory.
    folder = (database.parent / "mlartifacts").as_uri() if database is not None else None
    return client, client.create_experiment(name, artifact_location=folder)


def _settings(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Every setting of the recipe by its path; passwords of addresses are left out."""

    def flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                yield from flat(inner, f"{path}.{name}" if path else str(name))
        else:
            yield _name(path), redacted(str(value))[:_LONGEST]

    return flat(recipe.model_dump(mode="json"), "")


def _metrics(night: Night, results: Sequence[Result]) -> Iterator[tuple[str, float, int]]:
    """Metrics of the evaluation, seconds of stages, tokens and minutes."""
    quality = next((result.report for result in results if isinstance(result.report, EvaluationReport)), None)
    if quality is not None:
        kinds = {name: getattr(quality, name) for name in ("test", "validation", "popularity", "reference")}
        yield from (
            (f"{kind}/{name}", value, 0)
            for kind, metrics in kinds.items()
            for name, value in (metrics or {}).items()
            if value is not None
        )

    yield from ((f"seconds/{stage}", seconds, 0) for stage, seconds in night.seconds.items())
    facts = {"tokens": night.tokens, "texts from metadata": night.from_metadata, "minutes": night.minutes}
    yield from ((name, value, 0) for name, value in facts.items() if value is not None)


def _curves(results: Sequence[Result]) -> Iterator[tuple[str, float, int]]:
    """The logged values of training by step: losses and validation metrics."""
    artifacts = {result.stage: result.artifact for result in results}
    for file in _CURVES:
        artifact = artifacts.get(file.stage)
        if artifact is not None and (artifact.path / file.name).is_file():
            table = file.of(artifact).select("name", "value", "step").drop_nulls()
            yield from ((f"{file.stage}/{name}", value, step) for name, value, step in table.iter_rows())


def _name(name: str) -> str:
    """The name of a setting or metric with the characters that MLflow allows, so `recall_at_20` for `recall@20`."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"), flags=re.ASCII)
