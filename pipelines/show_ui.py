"""Artifacts in the Prefect UI: the plan, and the main results of each finished stage."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event
from prefect.runtime import flow_run

from darec.artifacts.files import HISTORY
from darec.artifacts.store import Store
from darec.common.charts import Chart, Series, image_uri
from darec.common.printable import printable
from darec.report.trial import summary
from darec.serving.releases import Releases
from darec.text.trial import Side, Trial, meaning
from pipelines.reports import report_link
from pipelines.show import Bars, harmless, plan_rows
from schemas.reports import EvaluationReport, ProfileReport, PublishReport
from stages.execute import Result
from stages.plan import Step

REFUSED_EVENT = "darec.release.refused"
_UPDATE_SECONDS = 3.0  # between two updates of a bar in the Prefect UI

Table = list[dict[str, Any]]


class UIBars(Bars):
    """The bar in the terminal, and one in the Prefect UI."""

    _artifact: Any = None
    _shown = 0.0

    def start(self, label: str, total: int, unit: str = "rows") -> None:
        """Opens a bar, closing the one before."""
        super().start(label, total, unit)
        self._update(0.0)

    def advance(self, count: int = 1, note: str = "") -> None:
        """Moves the bar."""
        super().advance(count, note)
        self._update(self.percentage)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._artifact is not None:
            self._update(100.0, last=True)
        super().__exit__(kind, error, trace)

    def _update(self, percent: float, *, last: bool = False) -> None:
        if not last and time.monotonic() - self._shown < _UPDATE_SECONDS:
            return
        self._shown = time.monotonic()
        with harmless("a progress bar"):
            if self._artifact is None:
                self._artifact = create_progress_artifact(percent, description=f"{self.stage}: {self.description}")
            else:
                update_progress_artifact(self._artifact, percent)


def show_plan(steps: Sequence[Step]) -> None:
    """Shows the plan before the run starts: hit or stale, why, rows, and estimated tokens and minutes."""
    rows = plan_rows(steps)
    minutes = sum(row["minutes"] or 0 for row in rows)
    hits = sum(step.state == "hit" for step in steps)
    summary = f"{hits} of {len(rows)} stages are hits; the others are expected to take {minutes:.1f} minutes"
    create_table_artifact(rows, key="plan", description=summary)


def show_report(path: Path) -> None:
    """Links the HTML report."""
    text = f"**{path.stem}**\n\n[open the report]({report_link(path)})\n\n`{path}`"
    create_markdown_artifact(text, key="report", description="The HTML report of this run")


def show_result(result: Result, store: Store) -> None:
    """Shows the results of a stage that ran; stages without an entry show nothing."""
    show = _SHOWN.get(result.stage)
    if show is not None and not result.cached:
        show(result, store)


def _show_profiles(result: Result, store: Store) -> None:
    report: ProfileReport = result.report
    facts = {
        "rows": report.rows,
        "generated": report.generated,
        "from ledger": report.from_ledger,
        "retried": report.retried,
        "from metadata": report.from_metadata,
        "prompt tokens": report.prompt_tokens,
        "output tokens": report.output_tokens,
        "output tokens per second": report.output_tokens_per_second,
        "failures": ", ".join(f"{name}: {count}" for name, count in report.failures.items()) or "none",
    }
    facts |= {f"answered by {_inline(name)}": count for name, count in report.servers.items()}
    samples = "\n\n".join(f"{_quoted(each.prompt)}\n\n**{_inline(each.profile)}**" for each in report.samples)
    text = f"{_markdown_table(('', ''), facts.items())}\n\n### Samples: prompt, then profile\n\n{samples}"
    create_markdown_artifact(text, key=_key(result, "llm"), description=f"{result.stage}: tokens, fallbacks, samples")


def _show_curves(result: Result, store: Store) -> None:
    if result.artifact is None:
        return
    curves = history_curves(result.artifact.file(HISTORY.name))
    for kind, title in (("loss", "loss terms"), ("val", "validation")):
        lines = tuple(line for line in curves if line.name.startswith(f"{kind}/"))
        chart = Chart(f"{result.stage}: {title} by epoch", "epoch", lines, result.report.best_epoch)
        description = f"{result.stage}: {title}; {result.report.epochs} epochs"
        create_image_artifact(image_uri(chart), key=_key(result, kind), description=description)


def history_curves(path: Path) -> list[Series]:
    """Each series of a training history, as means over the steps of each epoch."""
    means = pl.read_parquet(path).group_by("name", "epoch").agg(pl.col("value").mean()).sort("name", "epoch")
    known = means.drop_nulls("value")
    parts = known.partition_by("name", maintain_order=True)
    return [Series(part["name"][0], tuple(part.select(pl.col("epoch").cast(float), "value").rows())) for part in parts]


def _show_metrics(result: Result, store: Store) -> None:
    current = Releases(store.root).current()
    rows = metric_rows(result.report, dict(current.report.metrics) if current else {})
    compared = f"compared with {current.id}" if current else "no release yet"
    create_table_artifact(rows, key=_key(result, "metrics"), description=f"test metrics, {compared}")


def metric_rows(report: EvaluationReport, current: Mapping[str, float | None]) -> Table:
    """Each test metric with those of the references on the same test, and that of the current release on the test of
    its own run.

    The gate measures the current release on this test too (`publish-gate`).
    """
    rows = []
    for name, value in sorted(report.test.items()):
        row = {"metric": name, "this run": _rounded(value), "popularity": _rounded(report.popularity.get(name))}
        if report.before_reranking is not None:
            row["before reranking"] = _rounded(report.before_reranking.get(name))
        row["reference"] = _rounded((report.reference or {}).get(name))
        row["current release, own test"] = _rounded(current.get(name))
        rows.append(row)

    return rows


def _show_gate(result: Result, store: Store) -> None:
    report: PublishReport = result.report
    verdict = f"**{report.release}: {report.state}** ({_inline(report.reason)})"
    rows = [(check.name, check.passed, check.value, check.limit, check.message) for check in report.checks]
    table = _markdown_table(("name", "passed", "value", "limit", "message"), rows)
    create_markdown_artifact(f"{verdict}\n\n{table}", key=_key(result, "gate"), description=f"gate: {report.state}")

    if report.state == "refused":
        resource = {"prefect.resource.id": f"darec.release.{report.release}"}
        payload = {"release": report.release, "reason": report.reason, "run_id": flow_run.root_flow_run_id}
        emit_event(REFUSED_EVENT, resource=resource, payload=payload)


def show_trial(trial: Trial) -> None:
    """Shows the result of `try-prompt`: each row with the old and the new text."""
    description = f"{trial.name}: {len(trial.rows)} rows under the old and the new prompt"
    create_markdown_artifact(
        trial_markdown(trial), key=f"prompt-{trial.name}".replace("_", "-"), description=description
    )


def trial_markdown(trial: Trial) -> str:
    """The trial as Markdown for the Prefect UI."""
    lines = "\n".join(f"- {_inline(line)}" for line in summary(trial))
    rows = [(row.title or row.id, _tried(row.old), _tried(row.new)) for row in trial.rows]
    return f"### {_inline(trial.name)}\n\n{lines}\n\n{_markdown_table(('row', 'old', 'new'), rows)}"


def _tried(side: Side) -> str:
    tokens = f" ({side.tokens} tokens)" if side.tokens else ""
    cause = f" (from metadata: {meaning(side.cause)})" if side.cause else ""
    return f"{side.text if side.text is not None else 'not requested'}{tokens}{cause}"


_SHOWN: dict[str, Callable[[Result, Store], None]] = {
    "profile_items": _show_profiles,
    "profile_users": _show_profiles,
    "train_reference": _show_curves,
    "train": _show_curves,
    "refit": _show_curves,
    "evaluate": _show_metrics,
    "publish": _show_gate,
}


def _key(result: Result, what: str) -> str:
    return f"{result.stage}-{what}".replace("_", "-")  # Prefect requires lower-case letters, digits and dashes


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _markdown_table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(_inline('' if cell is None else cell) for cell in line)} |" for line in lines)


def _inline(value: Any) -> str:
    """One line of escaped Markdown, because profiles and titles are untrusted."""
    text = " ".join(printable(str(value)).split())
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#" else sign for sign in text)


def _quoted(text: str) -> str:
    """Untrusted text as an indented block, which Markdown does not interpret."""
    return "\n".join(f"    {line}" for line in printable(text).splitlines())
