"""What the Prefect UI shows of a run besides states: the plan, and of each finished stage what people ask first."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.events import emit_event
from prefect.runtime import flow_run

from darec.artifacts.store import Store
from darec.serving.releases import Releases
from pipelines.curves import Points, data_uri, line_chart
from pipelines.show import plan_rows
from stages.execute import Result
from stages.plan import Step

REFUSED_EVENT = "darec.release.refused"

Table = list[dict[str, Any]]


def show_plan(steps: Sequence[Step], store: Store) -> None:
    """The plan before the run starts: hit or miss, why, rows, and what that will roughly take."""
    rows = [row | estimate(step, store) for row, step in zip(plan_rows(steps), steps, strict=True)]
    minutes = sum(row["minutes"] or 0 for row in rows)
    hits = sum(step.state == "hit" for step in steps)
    summary = f"{hits} of {len(rows)} stages are hits; the rest took about {minutes:.1f} minutes when last measured"
    create_table_artifact(rows, key="plan", description=summary)


def estimate(step: Step, store: Store) -> dict[str, Any]:
    """Tokens and minutes a step will take, from the newest run that generated anything; None where nothing is known."""
    if step.state == "hit":
        return {"tokens": 0, "minutes": 0.0}
    for artifact in store.artifacts(step.stage.name):
        report = artifact.manifest.report if artifact.damage() is None else {}
        if step.rows is not None and report.get("generated"):
            scale = step.rows / report["generated"]
            tokens = report["prompt_tokens"] + report["output_tokens"]
            return {"tokens": round(tokens * scale), "minutes": round(report["seconds"] * scale / 60, 2)}
    seconds = step.seconds_last_time
    return {"tokens": None, "minutes": None if seconds is None else round(seconds / 60, 2)}


def show_result(result: Result, store: Store) -> None:
    """What a stage that has just done its work has to show; stages without an entry show nothing."""
    show = _SHOWN.get(result.stage)
    if show is not None and not result.cached:
        show(result, store)


def _show_profiles(result: Result, store: Store) -> None:
    report = result.report
    names = ("rows", "generated", "from_ledger", "retried", "from_metadata", "prompt_tokens", "output_tokens")
    facts: Mapping[str, Any] = {name.replace("_", " "): report.get(name) for name in names} | {
        "output tokens a second": report.get("output_tokens_per_second"),
        "failures": ", ".join(f"{name}: {count}" for name, count in report.get("failures", {}).items()) or "none",
    }
    samples = "\n\n".join(
        f"{_quoted(sample['prompt'])}\n\n**{_inline(sample['profile'])}**" for sample in report.get("samples", ())
    )
    text = f"{_markdown_table(('', ''), facts.items())}\n\n### Samples: prompt, then profile\n\n{samples}"
    create_markdown_artifact(text, key=_key(result, "llm"), description=f"{result.stage}: tokens, fallbacks, samples")


def _show_curves(result: Result, store: Store) -> None:
    if result.artifact is None:
        return
    curves = history_curves(result.artifact.path / "history.parquet")
    for kind, title in (("loss", "loss terms"), ("val", "validation")):
        lines = {name: points for name, points in curves.items() if name.startswith(f"{kind}/")}
        chart = line_chart(f"{result.stage}: {title} by epoch", lines)
        description = f"{result.stage}: {title}; {result.report.get('epochs')} epochs"
        create_image_artifact(data_uri(chart), key=_key(result, kind), description=description)


def history_curves(path: Path) -> dict[str, Points]:
    """Each series of a training history: its mean over every epoch's steps."""
    import polars as pl

    means = pl.read_parquet(path).group_by("name", "epoch").agg(pl.col("value").mean()).sort("name", "epoch")
    return {str(name): part.select("epoch", "value").rows() for (name,), part in means.group_by("name")}


def _show_metrics(result: Result, store: Store) -> None:
    current = Releases(store.root).current()
    rows = metric_rows(result.report, dict(current.report.metrics) if current else {})
    beside = f"beside {current.id}" if current else "no release yet"
    create_table_artifact(rows, key=_key(result, "metrics"), description=f"test metrics, {beside}")


def metric_rows(report: Mapping[str, Any], current: Mapping[str, float | None]) -> Table:
    """Each test metric beside the current release's and the references' of the same split."""
    rows = []
    for name, value in sorted(report["test"].items()):
        before = current.get(name)
        row = {"metric": name, "this run": _rounded(value), "current release": _rounded(before)}
        row["change"] = f"{(value - before) / before:+.1%}" if before and value is not None else None
        for reference in ("popularity", "reference"):
            row[reference] = _rounded((report.get(reference) or {}).get(name))
        rows.append(row)
    return rows


def _show_gate(result: Result, store: Store) -> None:
    report = result.report
    verdict = f"**{report['release']}: {report['state']}** ({_inline(report['reason'])})"
    names = ("name", "passed", "value", "limit", "message")
    rows = [[check[name] for name in names] for check in report["checks"]]
    create_markdown_artifact(
        f"{verdict}\n\n{_markdown_table(names, rows)}", key=_key(result, "gate"), description=f"gate: {report['state']}"
    )
    if report["state"] == "refused":
        resource = {"prefect.resource.id": f"darec.release.{report['release']}"}
        payload = {"release": report["release"], "reason": report["reason"], "run_id": flow_run.root_flow_run_id}
        emit_event(REFUSED_EVENT, resource=resource, payload=payload)


_SHOWN: dict[str, Callable[[Result, Store], None]] = {
    "profile_items": _show_profiles,
    "profile_users": _show_profiles,
    "train_reference": _show_curves,
    "train": _show_curves,
    "evaluate": _show_metrics,
    "publish": _show_gate,
}


def _key(result: Result, what: str) -> str:
    return f"{result.stage}-{what}".replace("_", "-")  # Prefect wants lower-case letters, digits and dashes


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _markdown_table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(_inline('' if cell is None else cell) for cell in line)} |" for line in lines)


def _inline(value: Any) -> str:
    """One line that Markdown takes as text: profiles and titles come from outside."""
    text = " ".join(str(value).split())
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|#" else sign for sign in text)


def _quoted(text: str) -> str:
    """Outside text as an indented block, which Markdown leaves as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines())
