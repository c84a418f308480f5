"""docker-compose.yml: what it guarantees on a machine. The tests read it and need no engine."""

import re
from pathlib import Path

import pytest
import yaml

TEXT = Path("docker-compose.yml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_watched_restarted_and_cannot_gain_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"] and service["restart"] == "unless-stopped"
    assert "no-new-privileges:true" in service["security_opt"]
    assert service.get("user") == "postgres" or service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_port_is_bound_to_the_loopback(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


def test_every_secret_comes_from_the_environment_and_has_no_default() -> None:
    example = Path(".env.example").read_text()
    for secret in ("POSTGRES_PASSWORD", "DAREC_LOGIN", "DAREC_LLM_API_KEY"):
        assert "${" + secret + ":?" in TEXT and "${" + secret + ":-" not in TEXT
        assert re.search(rf"^{secret}=$", example, re.MULTILINE)
    used = set(re.findall(r"\$\{(\w+)", TEXT))
    assert used <= set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_a_worker_can_serve_another_pool_and_gets_the_keys_of_an_object_store() -> None:
    environment = SERVICES["worker"]["environment"]
    keys = {name for name in environment if name.startswith("AWS_")}
    assert {environment[name] for name in keys} == {None}, "taken from .env, and absent without it"
    assert keys == set(re.findall(r"^# (AWS_\w+)=$", Path(".env.example").read_text(), re.MULTILINE))
    assert '--pool "$pool"' in Path("docker/worker.sh").read_text() and "DAREC_POOL" in environment
    assert "locks/extra-$extra.txt" in Path("docker/Dockerfile").read_text()
    assert SERVICES["worker"]["build"]["args"]["EXTRAS"]


def test_what_a_profile_serves_runs_on_what_it_is_called() -> None:
    for device in ("cpu", "gpu"):
        service = SERVICES[f"llm-{device}"]
        assert service["profiles"] == [device] == [service["build"]["args"]["DEVICE"]]
        assert service["image"].endswith(f"-{device}")


def test_the_links_of_the_runs_lead_to_addresses_for_browsers() -> None:
    [port] = SERVICES["reports"]["ports"]
    default = re.sub(r"\$\{DAREC_REPORTS_PORT:-(\d+)\}", r"\1", port).rpartition(":")[0]
    assert SERVICES["worker"]["environment"]["DAREC_REPORTS_URL"].endswith(f"http://{default}}}")
    server = SERVICES["server"]["environment"]["PREFECT_UI_API_URL"]
    assert SERVICES["worker"]["environment"]["PREFECT_UI_URL"] == server.removesuffix("/api")
    assert "data:/app/data:ro" in SERVICES["reports"]["volumes"] and "data:/app/data" in SERVICES["worker"]["volumes"]


def test_a_server_without_root_has_a_place_for_its_ui() -> None:
    [server] = [stage for stage in Path("docker/Dockerfile").read_text().split("\nFROM ") if "base AS server" in stage]
    [place] = re.findall(r"^ENV PREFECT_UI_STATIC_DIRECTORY=(\S+)", server, re.MULTILINE)
    assert place.startswith("/home/darec/")


def test_images_are_pinned_and_run_without_root() -> None:
    images = [service["image"] for service in SERVICES.values()]
    assert all(":" in image and not image.endswith(":latest") for image in images)
    text = Path("docker/Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON_IMAGE=\S+:\d", text, re.MULTILINE)
    stages = text.split("\nFROM ")[1:]
    assert all(re.match(r"\$\{PYTHON_IMAGE\}|base", stage) for stage in stages)
    assert all("USER 10001" in stage for stage in stages if " AS base" not in stage.splitlines()[0])


def test_the_code_is_readable_for_the_worker_whatever_the_umask_of_the_checkout() -> None:
    _, worker = Path("docker/Dockerfile").read_text().split("base AS worker")
    after_the_last_copy, user = worker.rpartition("\nCOPY ")[2].split("USER 10001")
    assert "chmod -R a+rX ." in after_the_last_copy and "COPY" not in user
