"""The history of a store's runs, and the metrics of the last run for monitoring."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest, write_to_textfile
from pydantic import ValidationError

from darec.artifacts.shared import shared_store
from darec.common.warnings import warn_once
from darec.serving.releases import Releases
from schemas.night import NIGHTS_FILE, Night

TEXTFILE = Path("metrics") / "darec.prom"
"""The file of the metrics in the store, for a Prometheus node exporter (its `--collector.textfile.directory`)."""


def record(root: Path, night: Night) -> None:
    """Adds a run to the history of the store at `root`, and rewrites the metrics of `TEXTFILE`."""
    line = night.model_dump_json() + "\n"
    if (shared := shared_store(root)) is not None:
        shared.append(NIGHTS_FILE, line.encode())
    else:
        root.mkdir(parents=True, exist_ok=True)  # a first run may fail before it has written anything
        # one write at the end of the file, so that parallel or killed runs leave complete lines
        descriptor = os.open(root / NIGHTS_FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
    (root / TEXTFILE.parent).mkdir(exist_ok=True)
    write_to_textfile(str(root / TEXTFILE), _registry(root, night))


def history(root: Path) -> list[Night]:
    """All runs of the store at `root`, oldest first, including releases that are older than the history."""
    kept = list(_kept(root))
    known = {night.release for night in kept}
    older = [
        Night(
            started=release.created,
            outcome="refused" if release.events[0].what == "refused" else "published",
            why=release.decision.reason,
            release=release.id,
            metrics=release.report.metrics,
        )
        for release in Releases(root).all()
        if release.id not in known
    ]
    return sorted([*older, *kept], key=lambda night: night.started)


def last_night(root: Path) -> Night | None:
    """The run that ended last, None before the first."""
    kept = list(_kept(root))
    return kept[-1] if kept else None


def exposition(root: Path) -> bytes:
    """The metrics of the last run, in the text format of Prometheus."""
    return generate_latest(_registry(root, last_night(root)))


def _kept(root: Path) -> Iterator[Night]:
    try:
        lines = (root / NIGHTS_FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield Night.model_validate_json(line)
        except ValidationError:
            warn_once(f"a line of {root / NIGHTS_FILE} cannot be read and is left out")


def _registry(root: Path, night: Night | None) -> CollectorRegistry:
    registry = CollectorRegistry()

    def gauge(name: str, meaning: str, value: float | None) -> None:
        if value is not None:
            Gauge(f"darec_{name}", meaning, registry=registry).set(value)

    def gauges(name: str, meaning: str, label: str, values: Mapping[str, float | None]) -> None:
        family = Gauge(f"darec_{name}", meaning, (label,), registry=registry)
        for each, value in values.items():
            if value is not None:
                family.labels(each).set(value)

    gauge("releases", "Bundles that the gate has checked", len(Releases(root).all()))
    if night is None:
        return registry
    gauge("last_run_start_timestamp_seconds", "When the last run began", night.started.timestamp())
    gauge("last_run_end_timestamp_seconds", "When the last run ended", night.ended.timestamp())
    gauge(
        "last_run_success", "0 if the last run ended in an error; a refused release is not an error", not night.failed
    )
    gauges("last_run_outcome", "1 for the outcome of the last run", "outcome", {night.outcome: 1})
    gauge("last_run_tokens", "Prompt and output tokens of the LLM in the last run", night.tokens)
    gauge("last_run_generated_rows", "Profiles requested from the LLM in the last run", night.generated)
    gauge(
        "last_run_metadata_rows",
        "Rows whose text comes from metadata because the LLM gave no usable answer",
        night.from_metadata,
    )
    gauges("last_run_stage_seconds", "Seconds of each stage that did work in the last run", "stage", night.seconds)
    gauges("last_run_quality", "Test metrics of the last run's model", "metric", night.metrics)
    return registry
