"""The PostgreSQL of `darec ui`: made, found again, damaged, killed; and a run that its database leaves for a while."""

import asyncio
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from darec.common.errors import DarecError, UserError
from pipelines.api import PrefectServer
from pipelines.database import Database
from pipelines.supervise import Part
from tests.data import write_checkerboard
from tests.processes import free_port, short_folder, unconfigured, wait_for
from tests.stores import RECIPE

TRAIN = "epochs: 800, patience: 800, eval_every: 10"


def start(database: Database) -> Part:
    database.prepare()
    part = Part("database", database.command, log=database.log, stop=signal.SIGINT)
    assert wait_for(lambda: database.ready() or part.returncode() is not None)
    return part


def ask(folder: Path, query: str) -> str:
    async def answer() -> str:
        connection = await asyncpg.connect(host=str(folder), user="prefect", database="postgres")
        try:
            return str(await connection.fetchval(query))
        finally:
            await connection.close()

    return asyncio.run(answer())


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A cluster that was stopped in order; it holds one table."""
    with short_folder() as place:
        folder = place / "postgresql"
        part = start(Database(folder))
        ask(folder, "create table nights (number int)")
        part.end()
        yield folder


@pytest.fixture
def copy(cluster: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-a", cluster, tmp_path / "postgresql"], check=True)
    return tmp_path / "postgresql"


def test_what_was_written_is_there_at_the_next_start_and_only_for_the_owner(copy):
    part = start(Database(copy))
    assert ask(copy, "select count(*) from nights") == "0"
    assert ask(copy, "create extension pg_trgm") == "None"  # what Prefect asks for
    assert ask(copy, "show listen_addresses") == ""
    assert copy.stat().st_mode & 0o077 == 0
    part.end()
    assert part.returncode() == 0


def test_a_second_server_on_the_same_folder_says_that_there_is_one(copy):
    part = start(Database(copy))
    second = Database(copy)
    rival = Part("database", second.command, log=second.log, stop=signal.SIGINT)
    assert wait_for(lambda: rival.returncode() is not None)
    assert isinstance(second.failure(), UserError) and "in use already" in str(second.failure())
    part.end()


def test_a_process_killed_while_it_makes_the_cluster_leaves_none(tmp_path):
    draft = tmp_path / "postgresql.draft"
    draft.mkdir()
    (draft / "PG_VERSION").write_text("18\n")
    part = start(Database(tmp_path / "postgresql"))
    assert ask(tmp_path / "postgresql", "select 1") == "1" and not draft.exists()
    part.end()


def damage_control(folder: Path) -> None:
    (folder / "global" / "pg_control").write_bytes(bytes(8192))


def remove_log(folder: Path) -> None:
    shutil.rmtree(folder / "pg_wal")


def garble_configuration(folder: Path) -> None:
    (folder / "postgresql.conf").write_text("max_connections = many\n")


@pytest.mark.parametrize("harm", [damage_control, remove_log, garble_configuration])
def test_a_damaged_cluster_gives_one_line_with_a_way_out(copy, harm):
    harm(copy)
    database = Database(copy)
    part = start(database)
    assert part.returncode() is not None
    assert "PostgreSQL did not start: " in str(database.failure())
    assert "restore a backup" in str(database.failure()) and "\n" not in str(database.failure())


def test_a_cluster_of_another_version_is_not_touched(copy):
    (copy / "PG_VERSION").write_text("17\n")
    with pytest.raises(UserError, match="one of PostgreSQL 17, and PostgreSQL 18"):
        Database(copy).prepare()


def test_a_folder_that_is_no_cluster_is_not_touched(tmp_path):
    (tmp_path / "postgresql").mkdir()
    (tmp_path / "postgresql" / "letters").write_text("dear")
    with pytest.raises(DarecError, match="not a PostgreSQL cluster"):
        Database(tmp_path / "postgresql").prepare()
    assert (tmp_path / "postgresql" / "letters").read_text() == "dear"


def test_a_path_that_no_socket_can_have_is_refused_before_any_work(tmp_path):
    folder = tmp_path / ("long" * 25) / "postgresql"
    with pytest.raises(UserError, match="too long for a Unix socket"):
        Database(folder).prepare()
    assert not folder.parent.exists()


def test_it_shuts_down_in_order_when_the_one_that_started_it_is_killed(copy):
    code = f"""
        import signal, time
        from pathlib import Path
        from pipelines.database import Database
        from pipelines.supervise import Part
        database = Database(Path({str(copy)!r}))
        part = Part("database", database.command, log=database.log, stop=signal.SIGINT)
        print(part.pid, flush=True)
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = psutil.Process(int(parent.stdout.readline()))
    assert wait_for(Database(copy).ready)
    parent.kill()
    parent.communicate()
    assert wait_for(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    assert "database system is shut down" in Database(copy).log.read_text()


@pytest.fixture
def api(copy: Path, tmp_path: Path) -> Iterator[tuple[str, Part]]:
    """The address of a Prefect server, and its database."""
    part = start(Database(copy))
    port = free_port()
    settings = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": Database(copy).url, "PREFECT_UI_ENABLED": "0"}
    server = PrefectServer("127.0.0.1", port, environment(tmp_path) | settings, log=tmp_path / "server.log")
    try:
        server.wait()
        yield server.url, part
    finally:
        server.end()
        part.end()


def environment(folder: Path) -> dict[str, str]:
    """What `darec ui` and prefect.yaml give to workers and their runs."""
    clean = unconfigured()
    patience = {"PREFECT_CLIENT_RETRY_EXTRA_CODES": "500", "PREFECT_CLIENT_MAX_RETRIES": "7"}
    return clean | patience | {"PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1"}


@pytest.mark.slow
def test_a_run_rides_out_a_database_that_is_killed_and_started_again(api: tuple[str, Part], tmp_path: Path):
    url, database = api
    write_checkerboard(tmp_path / "data")
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(data=tmp_path / "data", store=tmp_path / "store", train=TRAIN))
    command = [str(Path(sys.executable).with_name("darec")), "run", "--recipe", str(tmp_path / "recipe.yaml")]
    variables = environment(tmp_path) | {"PREFECT_API_URL": url}
    with (tmp_path / "run.log").open("wb") as log:
        run = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    assert wait_for(lambda: any((tmp_path / "store" / "work" / "train").glob("*")) or run.poll() is not None)
    psutil.Process(database.pid).kill()
    time.sleep(5)
    assert run.poll() is None, (tmp_path / "run.log").read_text()
    assert wait_for(lambda: database.restart_if_ended() or database.returncode() is None)
    assert run.wait(240) == 0, (tmp_path / "run.log").read_text()
    assert (tmp_path / "store" / "current" / "items.faiss").is_file()
    flows = httpx.post(f"{url}/flow_runs/filter", json={}, timeout=60).raise_for_status().json()
    assert len(flows) == 3 and {flow["state"]["type"] for flow in flows} == {"COMPLETED"}
    again = subprocess.run(command, env=variables, check=True, capture_output=True, text=True, timeout=240)
    assert "published" not in again.stdout and again.stdout.count("cached") >= 7
