"""Writes the HTML report, for `darec report` and at the end of a run. Local imports keep runs without stale stages
fast."""

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.common.files import check_writable, regular_file
from darec.serving.releases import Releases
from stages.execute import Result

REPORTS_URL = "DAREC_REPORTS_URL"
"""Environment variable with the URL at which `<store>/reports` is served."""


def write_report(store: Store, release: str | None = None, out: Path | None = None, *, overwrite: bool = False) -> Path:
    """Writes the report of a release, by default the newest; returns its path.

    Args:
        store: the store of the release.
        release: its id.
        out: the file to write, by default one named after the release in `<store>/reports`.
        overwrite: replace an HTML page that is at `out`.

    Raises:
        UserError: there is no such release or no release at all, or `out` exists or cannot be written.
    """
    from darec.report.render import write
    from darec.report.source import Source

    if out is not None:
        check_free(out, overwrite)
    releases = Releases(store.root)
    newest = releases.all()[:1]
    if not newest:
        raise UserError("there is no release to report on", where=str(store.root), hint="run `darec run` first")

    source = Source.of_release(store, releases.get(release) if release else newest[0])
    path = out or _default_path(store, source.name)
    try:
        write(source, path)
    except OSError as error:
        hint = "name a file in a folder that this user may write"
        raise UserError(f"the report cannot be written ({error.strerror})", where=str(path), hint=hint) from error

    return path


def check_free(out: Path, overwrite: bool) -> None:
    """Raises UserError unless `out` is a new file that can be written, or an HTML page that may be overwritten."""
    check_writable(out)
    if not os.path.lexists(out):
        return
    facts = regular_file(out, "--out", hint="name a new file")
    if not overwrite:
        raise UserError("the file exists", where=str(out), hint="name a new file, or add --overwrite")
    if facts.st_size and not _is_page(out):
        raise UserError("the file is not an HTML page and is not overwritten", where=str(out), hint="name a new file")


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(200).lstrip().lower().startswith(b"<!doctype html")


def report_run(store: Store, results: Sequence[Result]) -> Path:
    """Writes the report of a run and returns its path. If all stages were hits, an existing report is kept."""
    from darec.report.naming import origin, report_name

    artifacts, release = origin(store, {each.stage: each.artifact.key for each in results if each.artifact})
    path = _default_path(store, report_name(artifacts, release))
    if not path.is_file() or not all(result.cached for result in results):
        from darec.report.render import write
        from darec.report.source import Source

        write(Source(store, artifacts, release), path)

    return path


def report_link(path: Path) -> str:
    """The URL of a report. Browsers do not open file:// links of pages from a server."""
    address = os.environ.get(REPORTS_URL)
    return f"{address}/{quote(path.name)}" if address else path.as_uri()


def _default_path(store: Store, name: str) -> Path:
    return folder(store) / f"{name}.html"


def folder(store: Store) -> Path:
    """The folder of the reports."""
    return store.root / "reports"
