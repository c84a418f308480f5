"""What `darec deploy` saves. `tests/flows/test_service.py` registers everything with a real server."""

import pytest
from prefect.automations import Automation

from pipelines import deployments


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was sent to a server that returns automations as it got them, as JSON."""
    saved: dict[str, str] = {}
    sent: list[str] = []

    def read(name: str) -> Automation:
        if name not in saved:
            raise ValueError(name)
        return Automation.model_validate_json(saved[name])

    def save(verb: str, automation: Automation) -> None:
        sent.append(f"{verb} {automation.name}")
        saved[automation.name] = automation.model_dump_json()

    monkeypatch.setattr(Automation, "read", read)
    monkeypatch.setattr(Automation, "create", lambda automation: save("create", automation))
    monkeypatch.setattr(Automation, "update", lambda automation: save("update", automation))
    return sent


def test_an_automation_that_has_not_changed_keeps_watching_its_runs(changes: list[str]) -> None:
    for _ in range(2):
        for automation in deployments._crash_stalled_runs():
            deployments._save(automation)
    assert [change.split()[0] for change in changes] == ["create", "create"]


def test_an_automation_that_has_changed_is_updated(changes: list[str]) -> None:
    stalled, _ = deployments._crash_stalled_runs()
    deployments._save(stalled)
    stalled.description = "Another one."
    deployments._save(stalled)
    assert changes == [f"create {stalled.name}", f"update {stalled.name}"]
