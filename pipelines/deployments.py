"""Registers the work pool, the deployments of prefect.yaml and the automations with a Prefect server."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import yaml
from prefect.automations import Automation, EventTrigger
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import Posture
from prefect.exceptions import ObjectAlreadyExists

from darec.common.errors import DarecError, UserError
from darec.common.recipes import load_recipe
from pipelines.pools import pools
from pipelines.show_ui import REFUSED_EVENT

WORK_POOL = "darec"
WEBHOOK_VARIABLE = "DAREC_WEBHOOK_URL"
HEARTBEAT_SECONDS = 30  # the same as in prefect.yaml

_ENDS = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", "TimedOut")}
_FAILED = """{"text": {{ ("darec: " ~ event.event ~ ", run " ~ flow_run.name ~ ". " ~ (flow_run.state.message or ""))
 | tojson }}, "event": {{ event.event | tojson }}, "run": {{ flow_run.name | tojson }},
 "run_id": {{ (flow_run.id | string) | tojson }}}"""
_REFUSED = """{"text": {{ ("darec: refused, " ~ event.payload.get("release") ~ ". " ~ event.payload.get("reason"))
 | tojson }}, "event": {{ event.event | tojson }}, "release": {{ event.payload.get("release") | tojson }},
 "run_id": {{ event.payload.get("run_id") | tojson }}}"""


def deploy(recipe: Path | None, folder: Path | None = None) -> list[str]:
    """Registers everything with the configured server; may be repeated. Returns what was registered.

    Raises:
        UserError: `folder` (default: the working directory) has no prefect.yaml, or the recipe names a work pool for an
        unknown stage. DarecError: Prefect refused.
    """
    folder = folder or Path.cwd()
    if not (folder / "prefect.yaml").is_file():
        raise UserError("there is no prefect.yaml", where=str(folder), hint="run from the project's folder")
    stage_pools = pools(load_recipe(recipe))
    done = [*(_work_pool(name) for name in (WORK_POOL, *stage_pools)), *_deployments(folder, recipe, stage_pools)]
    for automation in _crash_stalled_runs():
        _save(automation)
    done.append("automation: a run without heartbeat becomes Crashed")
    if url := os.environ.get(WEBHOOK_VARIABLE):
        for automation in _notify(url):
            _save(automation)
        done.append("automation: failed and crashed runs and refused releases call the webhook")
    return done


def _work_pool(name: str) -> str:
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        except ObjectAlreadyExists:
            return f"work pool {name} (exists)"
    return f"work pool {name}"


def _deployments(folder: Path, recipe: Path | None, stage_pools: Sequence[str]) -> list[str]:
    """Runs Prefect's own command, the only interface that reads a file such as prefect.yaml."""
    wanted = with_stage_pools(folder / "prefect.yaml", stage_pools)
    entrypoints = [str(each.get("entrypoint")) for each in wanted["deployments"]]
    for path in sorted({place.partition(":")[0] for place in entrypoints if ":" in place}):
        if not (folder / path).is_file():
            hint = "run from the folder of the project, which has the code and prefect.yaml"
            raise UserError(f"prefect.yaml names {path}, which is not there", where=str(folder), hint=hint)

    with NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(wanted, file)
        file.flush()
        answer = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", file.name],
            cwd=folder,
            env={**os.environ, "DAREC_RECIPE": str(recipe) if recipe else ""},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    if answer.returncode:
        lines = [line for line in (answer.stderr or answer.stdout).splitlines() if line.strip()] or ["no message"]
        raise DarecError(f"prefect deploy failed: {lines[-1].strip()}", where=str(folder))
    with get_client(sync_client=True) as client:
        found = client.read_deployments()
    return sorted(f"deployment {deployment.name}" for deployment in found if "darec" in deployment.tags)


def with_stage_pools(path: Path, stage_pools: Sequence[str]) -> dict[str, Any]:
    """The content of prefect.yaml, and a deployment of the flow `stage` for each work pool that stages run in.

    Workers of all pools get the settings of the first deployment's worker. The flow is found in the package, and each
    machine runs it in a folder of its own.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    worker = content["deployments"][0]["work_pool"]
    for pool in stage_pools:
        entry = {"name": pool, "entrypoint": "pipelines.pools.stage", "tags": ["darec"]}
        pull = [{"pipelines.pools.enter_folder": {"folder": str(path.parent.absolute())}}]
        content["deployments"].append(entry | {"pull": pull, "work_pool": {**worker, "name": pool}})
    return content


def _crash_stalled_runs() -> Iterator[Automation]:
    """Without this, a run that is killed together with its worker stays `Running` and keeps its concurrency slot.

    A run that dies at once never sends a heartbeat, so the first one of a deployment's run is expected as soon as the
    server has started it. Subflows belong to no deployment.
    """
    heartbeat, pending, running = (f"prefect.flow-run.{event}" for event in ("heartbeat", "Pending", "Running"))
    gone = "No heartbeat: the run's process is gone."
    crash = ChangeFlowRunState(name=None, state=StateType.CRASHED, message=gone, force=False)
    for name, after, related in (
        ("darec: mark stalled runs as crashed", {heartbeat}, {}),
        ("darec: mark runs that never began as crashed", {pending, running}, {"prefect.resource.role": "deployment"}),
    ):
        trigger = EventTrigger(
            after=after,
            expect={heartbeat, *(after - {pending}), *_ENDS},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},  # pyright: ignore[reportArgumentType]
            match_related=related,  # pyright: ignore[reportArgumentType]
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=3 * HEARTBEAT_SECONDS),
        )
        description = "A run without a heartbeat is dead: mark it Crashed."
        yield Automation(name=name, description=description, trigger=trigger, actions=[crash])  # pyright: ignore[reportArgumentType]


def _notify(url: str) -> Iterator[Automation]:
    """Two automations that call the webhook: one for dead and failed runs, one for refused releases.

    Only runs of deployments trigger them, so that a failure makes one call and not one per subflow. A refusal is an
    event of a subflow's task, which Prefect relates to no deployment.
    """
    block = Webhook(method="POST", url=url, headers={"Content-Type": "application/json"})  # pyright: ignore
    identifier = block.save("darec-webhook", overwrite=True)
    failures = EventTrigger(
        expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"},
        match_related={"prefect.resource.role": "deployment"},  # pyright: ignore[reportArgumentType]
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )
    refusals = EventTrigger(expect={REFUSED_EVENT}, posture=Posture.Reactive, threshold=1)
    for name, description, trigger, payload in (
        ("darec: notify", "Report failed and crashed runs.", failures, _FAILED),
        ("darec: notify of refusals", "Report refused releases.", refusals, _REFUSED),
    ):
        call = CallWebhook(block_document_id=identifier, payload=payload)  # pyright: ignore[reportArgumentType]
        yield Automation(name=name, description=description, trigger=trigger, actions=[call])  # pyright: ignore


def _save(automation: Automation) -> None:
    """Creates or updates it; an automation that has not changed is left alone.

    An update makes Prefect forget which runs it watches: a run that died with its worker would stay `Running` for ever
    if the worker registers everything again when it starts.
    """
    try:
        saved: Automation = Automation.read(name=automation.name)  # pyright: ignore[reportAssignmentType]
    except ValueError:
        automation.create()
        return
    automation.id = saved.id
    if automation.model_dump() != saved.model_dump():
        automation.update()
