"""Faults of a ledger's disk and of its writers, on real files and with real processes."""

import errno
import hashlib
import io
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from darec.artifacts import sqlite_rows
from darec.artifacts.ledger import KEY, Ledger, row_key
from darec.common.errors import TransientError, UserError
from schemas.tables import PROFILE_ROWS, TableSchema

SCHEMA = TableSchema({KEY: pl.String(), "text": pl.String(), "cause": pl.String()})
COUNT = 2_000
KEYS = pl.Series(KEY, [row_key(str(number).encode()) for number in range(COUNT)])
TEXTS = {key: f"the profile of row {number}, warm and witty" for number, key in enumerate(KEYS)}
NEW = "f" * 32
PAGE = sqlite_rows.PAGE_BYTES
ROOT = Path(__file__).parents[2]


def rows(keys: pl.Series) -> pl.DataFrame:
    return pl.DataFrame({KEY: keys, "text": [TEXTS[key] for key in keys], "cause": ""}, schema=SCHEMA)


def texts(ledger: Ledger) -> dict[str, str]:
    return dict(ledger.get(KEYS).select(KEY, "text").iter_rows())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "profiles.sqlite"
    for start in range(0, COUNT, 100):
        Ledger(path, SCHEMA).append(rows(KEYS[start : start + 100]))
    return path


@pytest.fixture
def ledger(whole: Path, tmp_path: Path) -> Ledger:
    """A copy of a ledger of 2,000 rows."""
    (tmp_path / "ledger").mkdir()
    return Ledger(Path(shutil.copy(whole, tmp_path / "ledger" / "profiles.sqlite")), SCHEMA)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


# Damage


def test_a_flipped_byte_in_a_text_costs_that_row_only(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    content, victim = bytearray(ledger.path.read_bytes()), KEYS[1234]
    content[content.index(TEXTS[victim].encode()) + 5] ^= 1
    ledger.path.write_bytes(content)

    survey = ledger.survey(KEYS)
    assert (survey.missing.to_list(), survey.damage) == ([victim], "1 rows are damaged")
    assert texts(ledger) == {key: text for key, text in TEXTS.items() if key != victim}
    assert ledger.missing(KEYS, repair=True).to_list() == [victim]
    assert "1 rows are damaged" in caplog.text

    ledger.append(rows(pl.Series(KEY, [victim])))
    assert texts(ledger) == TEXTS


@pytest.mark.parametrize("seed", range(100))
def test_a_flipped_byte_anywhere_gives_no_wrong_row_and_costs_few(ledger: Ledger, seed: int) -> None:
    chance, content = random.Random(seed), bytearray(ledger.path.read_bytes())
    position = chance.randrange(100) if seed < 30 else chance.randrange(len(content))  # the header is met often enough
    content[position] ^= 1 << chance.randrange(8)
    ledger.path.write_bytes(content)

    found = texts(ledger)
    assert found.items() <= TEXTS.items()
    assert set(ledger.survey(KEYS).missing) == TEXTS.keys() - found.keys()
    missing = ledger.missing(pl.concat([KEYS, pl.Series(KEY, [NEW])]), repair=True)
    assert len(missing) <= 1 + PAGE // 80, "more rows are lost than one page holds"
    ledger.append(pl.DataFrame({KEY: missing, "text": [TEXTS.get(key, "new") for key in missing], "cause": ""}))
    assert texts(ledger) == TEXTS
    assert ledger.missing(pl.Series(KEY, [NEW])).is_empty()
    assert sound(ledger.path)


def sound(path: Path) -> bool:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("kept", [0, 1, 50, PAGE, 3 * PAGE + 17, -PAGE, -1])
def test_a_file_cut_short_is_told_and_what_is_left_of_it_is_used(
    ledger: Ledger, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    content = ledger.path.read_bytes()
    ledger.path.write_bytes(content[:kept])
    before = contents(ledger.path.parent)

    survey = ledger.survey(KEYS)
    assert survey.damage
    assert contents(ledger.path.parent) == before
    assert texts(ledger).items() <= TEXTS.items()

    missing = ledger.missing(KEYS, repair=True)
    whole_pages = len(content[:kept]) // PAGE
    assert COUNT - len(missing) >= (whole_pages - 10) * 50, "rows of whole pages are kept"
    assert "the damaged file is kept as profiles-" in caplog.text
    [aside] = ledger.path.parent.glob("*.damaged")
    assert aside.read_bytes() == content[:kept]
    ledger.append(rows(missing))
    assert texts(ledger) == TEXTS


def test_a_damaged_index_costs_no_row(ledger: Ledger) -> None:
    content = bytearray(ledger.path.read_bytes())
    indexes = [start for start in range(PAGE, len(content), PAGE) if content[start] in (0x02, 0x0A)]
    for start in indexes:
        content[start : start + PAGE] = bytes(PAGE)
    ledger.path.write_bytes(content)
    assert len(indexes) > 5
    assert len(ledger.survey(KEYS).missing) == COUNT
    assert ledger.missing(KEYS, repair=True).is_empty()
    assert texts(ledger) == TEXTS


def test_damage_that_a_writer_meets_first_is_repaired_before_it_writes(ledger: Ledger) -> None:
    content = bytearray(ledger.path.read_bytes())
    content[:PAGE] = bytes(PAGE)
    ledger.path.write_bytes(content)
    ledger.append(pl.DataFrame({KEY: [NEW], "text": ["a new one"], "cause": [""]}))
    assert texts(ledger) == TEXTS
    assert ledger.missing(pl.Series(KEY, [NEW])).is_empty()


# Refusals: nothing is renamed, removed or made, and nothing counts as missing


AS_NOBODY = """
import os, sys
from pathlib import Path
from darec.artifacts.ledger import Ledger
from tests.integration.test_ledger_faults import KEYS, SCHEMA, TEXTS, rows, texts

ledger = Ledger(Path(sys.argv[1]), SCHEMA)
some = rows(KEYS[:5])
os.setgid(65534)
os.setuid(65534)
try:
    print(eval(sys.argv[2]))
except Exception as error:
    print(f"{type(error).__name__}: {error}")
"""
USES = ("ledger.survey(KEYS)", "ledger.missing(KEYS, repair=True)", "ledger.get(KEYS)", "ledger.append(some)")


def as_nobody(path: Path, expression: str) -> str:
    """What an expression gives, or the error that it raises, in a process that gave up being root."""
    return run_python("-c", AS_NOBODY, str(path), expression).stdout.strip()


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.fixture
def open_to_all(ledger: Ledger) -> Ledger:
    """The ledger where every user may go; pytest's own folders are closed to others."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    # They stay open: tests that run beside this one share them.
    for folder in ledger.path.parents:
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(0o755)
    return ledger


@pytest.mark.parametrize("forbidden", ["file", "folder", "old folder"])
def test_what_may_not_be_read_is_refused_and_left_alone(open_to_all: Ledger, forbidden: str) -> None:
    ledger = open_to_all
    old = ledger.path.with_suffix("")
    old.mkdir()
    place = {"file": ledger.path, "folder": ledger.path.parent, "old folder": old}[forbidden]
    before = {path.name for path in ledger.path.parent.iterdir()}
    mode = place.stat().st_mode
    place.chmod(0)
    try:
        for use in USES:
            answer = as_nobody(ledger.path, use)
            assert answer.startswith("UserError") and "let this user read" in answer, (use, answer)
    finally:
        place.chmod(mode)
    assert {path.name for path in ledger.path.parent.iterdir()} == before
    assert texts(ledger) == TEXTS


def test_a_user_who_may_only_read_can_look_and_changes_nothing(open_to_all: Ledger) -> None:
    ledger = open_to_all
    before = contents(ledger.path.parent)
    assert as_nobody(ledger.path, "ledger.survey(KEYS).missing.is_empty() and texts(ledger) == TEXTS") == "True"
    assert as_nobody(ledger.path, "ledger.append(some)").startswith("UserError")
    assert contents(ledger.path.parent) == before


def test_a_folder_in_the_place_of_the_file_is_refused(ledger: Ledger) -> None:
    ledger.path.unlink()
    ledger.path.mkdir()
    for use in (lambda: ledger.survey(KEYS), lambda: ledger.append(rows(KEYS[:5]))):
        with pytest.raises(UserError):
            use()
    assert ledger.path.is_dir()


def test_a_file_that_is_locked_for_long_is_a_passing_fault(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_rows, "WAIT", 0.2)
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for use in (lambda: ledger.survey(KEYS), lambda: ledger.append(rows(KEYS[:5]))):
            with pytest.raises(TransientError, match="locked"):
                use()
    assert texts(ledger) == TEXTS


# A disk that fails, and kills at every moment of a commit


@pytest.fixture(scope="module")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that makes file operations of the processes that load it fail."""
    if shutil.which("cc") is None:
        pytest.skip("NO DISK FAILED: there is no C compiler")
    library = tmp_path_factory.mktemp("disk") / "failing_disk.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, ROOT / "tests" / "failing_disk.c", "-ldl"], check=True)
    return library


AS_USUAL = """
import sys
from pathlib import Path
from darec.artifacts.ledger import Ledger
from tests.integration.test_ledger_faults import KEYS, SCHEMA, TEXTS, rows, texts

ledger = Ledger(Path(sys.argv[1]), SCHEMA)
some = rows(KEYS[:5])
for use in sys.argv[2:]:
    try:
        print(eval(use))
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace(chr(10), " "))
"""


@pytest.mark.parametrize(
    ("calls", "number", "error"),
    [
        ("open", errno.EIO, "TransientError"),
        ("open", errno.EMFILE, "TransientError"),
        ("read", errno.EIO, "TransientError"),
    ],
)
def test_a_disk_that_cannot_be_read_for_a_while_is_a_passing_fault(
    ledger: Ledger, failing_disk: Path, calls: str, number: int, error: str
) -> None:
    before = contents(ledger.path.parent)
    faults = {"LD_PRELOAD": str(failing_disk), "FAIL_PATH": ledger.path.name, "FAIL_CALLS": calls}
    done = run_python("-c", AS_USUAL, str(ledger.path), *USES, **faults, FAIL_ERRNO=str(number))
    answers = done.stdout.splitlines()
    assert len(answers) == len(USES) and all(answer.startswith(error) for answer in answers), answers
    assert "damaged" not in done.stdout + done.stderr
    ledger.path.with_suffix(".lock").unlink(missing_ok=True)
    assert contents(ledger.path.parent) == before


@pytest.mark.parametrize(
    ("calls", "number", "error"),
    [
        ("write", errno.ENOSPC, "UserError: the disk is full"),
        ("write", errno.EIO, "TransientError"),
        ("sync", errno.EIO, "TransientError"),
    ],
)
def test_a_disk_that_cannot_be_written_for_a_while_costs_nothing(
    ledger: Ledger, failing_disk: Path, calls: str, number: int, error: str
) -> None:
    append = "ledger.append(some.with_columns(key='new' + some['key']))"
    faults = {"LD_PRELOAD": str(failing_disk), "FAIL_PATH": ledger.path.name, "FAIL_CALLS": calls}
    done = run_python("-c", AS_USUAL, str(ledger.path), append, **faults, FAIL_ERRNO=str(number))
    assert done.stdout.startswith(error), done.stdout
    assert texts(ledger) == TEXTS
    assert sound(ledger.path)
    assert not list(ledger.path.parent.glob("*.damaged"))
    done = run_python("-c", AS_USUAL, str(ledger.path), append)
    assert done.stdout.strip() == "None"


NURSERY = """
import os, sys
from pathlib import Path
import polars as pl
from darec.artifacts.ledger import Ledger, KEY, row_key
from schemas.tables import TableSchema

path, action, attempts = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
schema = TableSchema({KEY: pl.String(), "text": pl.String(), "cause": pl.String()})
for attempt in range(1, attempts + 1):
    child = os.fork()
    if child == 0:
        os.environ["FAIL_FROM"] = str(attempt)
        ledger = Ledger(path, schema)
        keys = [row_key(f"{attempt}-{number}".encode()) for number in range(20)]
        if action == "append":
            ledger.append(pl.DataFrame({KEY: keys, "text": keys, "cause": ""}, schema=schema))
        else:
            ledger.missing(pl.Series(KEY, keys), repair=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(attempt, os.waitstatus_to_exitcode(status), flush=True)
    sys.stdin.readline()
"""


class Nursery:
    """Writers, each killed one file operation later than the one before, until one of them ends by itself."""

    def __init__(self, library: Path, path: Path, action: str) -> None:
        faults = {"LD_PRELOAD": str(library), "FAIL_PATH": path.stem, "FAIL_ERRNO": "0", "FAIL_TIMES": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(path), action, "1000"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "FAIL_CALLS": "open write sync unlink rename link", **faults},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __iter__(self) -> Iterator[int]:
        """The number of each writer that was killed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with self.process:
            for line in self.process.stdout:
                attempt, code = map(int, line.split())
                assert code in (0, -signal.SIGKILL)
                if code == 0:
                    self.process.kill()
                    return
                yield attempt
                self.process.stdin.write("\n")
                self.process.stdin.flush()


def chunk(attempt: int) -> pl.Series:
    return pl.Series(KEY, [row_key(f"{attempt}-{number}".encode()) for number in range(20)])


def test_a_kill_at_any_moment_of_an_append_leaves_all_rows_or_none_of_it(
    ledger: Ledger, failing_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills, copies = 0, []
    real = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", lambda *paths: copies.append(paths) or real(*paths))
    for attempt in Nursery(failing_disk, ledger.path, "append"):
        kills += 1
        before = contents(ledger.path.parent)
        assert texts(ledger) == TEXTS, attempt
        survey = ledger.survey(chunk(attempt))
        assert (len(survey.missing) in (0, 20)) and not survey.damage, attempt
        assert contents(ledger.path.parent) == before, "a reader changed something"
    assert kills > 10
    assert copies, "no writer was killed within a commit"
    assert not list(ledger.path.parent.glob("*.damaged"))


def test_a_kill_at_any_moment_of_making_the_file_leaves_a_ledger_that_works(tmp_path: Path, failing_disk: Path) -> None:
    kills = 0
    ledger = Ledger(tmp_path / "profiles.sqlite", SCHEMA)
    for attempt in Nursery(failing_disk, ledger.path, "append"):
        kills += 1
        survey = ledger.survey(chunk(attempt))
        assert len(survey.missing) in (0, 20) and not survey.damage, attempt
        if not len(survey.missing):  # it was made: begin again
            for path in tmp_path.iterdir():
                path.unlink()
    assert kills > 10


def test_a_kill_at_any_moment_of_a_rebuild_loses_nothing(ledger: Ledger, failing_disk: Path) -> None:
    content = bytearray(ledger.path.read_bytes())
    content[: PAGE + 100] = bytes(PAGE + 100)
    ledger.path.write_bytes(content)
    kills = 0
    for _ in Nursery(failing_disk, ledger.path, "repair"):
        kills += 1
        if ledger.survey(KEYS).missing.is_empty():  # it was repaired: damage it again
            ledger.path.write_bytes(content)
    assert kills > 10
    assert texts(ledger) == TEXTS
    asides = list(ledger.path.parent.glob("*.damaged"))
    assert asides and all(aside.read_bytes() == content for aside in asides)


# Several processes at once

WRITER = """
import sys
from pathlib import Path
import polars as pl
from darec.artifacts.ledger import Ledger, KEY
from tests.integration.test_ledger_faults import KEYS, SCHEMA, rows

ledger, name = Ledger(Path(sys.argv[1]), SCHEMA), sys.argv[2]
for start in range(0, len(KEYS), 50):
    chunk = KEYS[start : start + 50]
    ledger.append(rows(chunk).with_columns(cause=pl.lit(name)))
    print(start, flush=True)
"""


def writer(path: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_several_writers_and_a_reader_at_once(tmp_path: Path) -> None:
    path = tmp_path / "profiles.sqlite"
    ledger, writers = Ledger(path, SCHEMA), [writer(path, str(number)) for number in range(3)]
    owners: dict[str, str] = {}
    while any(process.poll() is None for process in writers):
        now = dict(ledger.get(KEYS).select(KEY, "cause").iter_rows())
        assert owners.items() <= now.items(), "a row that was there is gone, or is another's"
        owners = now
    for process in writers:
        process.communicate()
    assert [process.returncode for process in writers] == [0, 0, 0]
    assert texts(ledger) == TEXTS
    assert not ledger.survey(KEYS).damage


def test_rows_that_were_appended_outlive_kill_after_kill(tmp_path: Path) -> None:
    path, chance = tmp_path / "profiles.sqlite", random.Random(7)
    ledger = Ledger(path, SCHEMA)
    for _ in range(10):
        process = writer(path, "w")
        assert process.stdout is not None
        wanted, kept = chance.randrange(1, 35), 0
        for line in process.stdout:
            kept = int(line) + 50
            if kept >= 50 * wanted:
                time.sleep(chance.uniform(0, 0.02))
                process.kill()
                break
        kept = max([kept, *(int(line) + 50 for line in process.stdout)])
        process.communicate()
        survey = ledger.survey(KEYS[:kept])
        assert survey.missing.is_empty() and not survey.damage
    assert not list(tmp_path.glob("*.damaged"))


# Read-only disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_read_only_disk_can_be_read(ledger: Ledger, small_disk: Path) -> None:
    ledger = Ledger(Path(shutil.copy(ledger.path, small_disk)), SCHEMA)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert texts(ledger) == TEXTS
    assert ledger.missing(KEYS, repair=True).is_empty()
    with pytest.raises(UserError, match="ledger cannot be used"):
        ledger.append(rows(KEYS[:5]))


def test_a_full_disk_keeps_what_was_kept(small_disk: Path) -> None:
    ledger = Ledger(small_disk / "profiles.sqlite", SCHEMA)
    kept = 0
    with pytest.raises(UserError, match="the disk is full"):
        for number in range(1000):
            keys = pl.Series(KEY, [row_key(f"{number}-{row}".encode()) for row in range(200)])
            ledger.append(pl.DataFrame({KEY: keys, "text": keys, "cause": ""}, schema=SCHEMA))
            kept += 1
    assert kept > 3
    for number in range(kept + 1):
        missing = ledger.survey(pl.Series(KEY, [row_key(f"{number}-{row}".encode()) for row in range(200)])).missing
        assert len(missing) == (0 if number < kept else 200)


# Rows of version 0.1


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The Parquet files of a real store of version 0.1."""
    with tarfile.open(ROOT / "tests" / "legacy" / "store-0.1.tar.gz") as archive:
        members = [member for member in archive.getmembers() if member.name.startswith("store/ledger")]
        archive.extractall(tmp_path, members=members, filter="data")
    return tmp_path / "store" / "ledger" / "profiles"


def old_rows(folder: Path) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(path) for path in sorted(folder.glob("*.parquet")))


def profiles(folder: Path) -> Ledger:
    return Ledger(folder.with_suffix(".sqlite"), PROFILE_ROWS)


def test_rows_of_version_01_are_read_in_place_and_imported_once_by_a_writer(old: Path) -> None:
    ledger, expected = profiles(old), old_rows(old).sort(KEY)
    before = contents(old)
    assert ledger.survey(expected[KEY]).missing.is_empty()
    assert ledger.get(expected[KEY], expected.columns[1:]).sort(KEY).equals(expected)
    assert not ledger.path.exists(), "a reader imported"

    assert ledger.missing(expected[KEY], repair=True).is_empty()
    assert contents(old) == before
    shutil.rmtree(old)
    assert ledger.get(expected[KEY], expected.columns[1:]).sort(KEY).equals(expected)


def test_a_damaged_file_of_version_01_is_told_left_there_and_costs_its_own_rows(
    old: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, victim = profiles(old), min(old.glob("*.parquet"))
    lost, everything = pl.read_parquet(victim)[KEY], old_rows(old)[KEY]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    survey = ledger.survey(everything)
    assert survey.missing.to_list() == lost.to_list()
    assert survey.damage == f"{victim.name} of version 0.1 is damaged"
    assert ledger.missing(everything, repair=True).to_list() == lost.to_list()
    assert victim.name in caplog.text
    assert victim.read_bytes() == content


def test_a_kill_at_any_moment_of_the_import_keeps_every_row(old: Path, failing_disk: Path) -> None:
    ledger, everything = Ledger(old.with_suffix(".sqlite"), SCHEMA), old_rows(old)[KEY]
    kills = 0
    for _ in Nursery(failing_disk, ledger.path, "repair"):
        kills += 1
        survey = ledger.survey(everything)
        assert survey.missing.is_empty() and not survey.damage
        if kills % 40 == 0:
            for path in ledger.path.parent.glob("profiles.*"):
                path.unlink()
    assert kills > 10
    shutil.rmtree(old)
    assert ledger.survey(everything).missing.is_empty()


def test_null_texts_of_version_01_count_as_missing(tmp_path: Path) -> None:
    folder = tmp_path / "profiles"
    folder.mkdir()
    table = pl.DataFrame({KEY: ["a", "b"], "text": ["good", None], "cause": ["", ""]}, schema=SCHEMA)
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    digest = hashlib.blake2b(buffer.getvalue(), digest_size=16).hexdigest()
    (folder / f"{1:020d}-{digest}.parquet").write_bytes(buffer.getvalue())
    ledger = Ledger(tmp_path / "profiles.sqlite", SCHEMA)
    assert ledger.missing(pl.Series(["a", "b"]), repair=True).to_list() == ["b"]
