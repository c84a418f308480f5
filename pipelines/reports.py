"""The HTML report: `darec report`, and the end of a run. Imports wait: a run with nothing to do pays little."""

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.serving.releases import Releases
from stages.execute import Result

REPORTS_URL = "DAREC_REPORTS_URL"
"""The environment variable that says where `<store>/reports` is served."""


def write_report(store: Store, release: str | None = None, out: Path | None = None) -> Path:
    """Writes the report of a release, by default the newest; returns its path.

    Raises:
        UserError: there is no such release, or none at all.
    """
    from darec.report.render import write
    from darec.report.source import Source

    releases = Releases(store.root)
    newest = releases.all()[:1]
    if not newest:
        raise UserError("there is no release to report on", where=str(store.root), hint="run `darec run` first")
    source = Source.of_release(store, releases.get(release) if release else newest[0])
    path = out or _default_path(store, source.name)
    write(source, path)
    return path


def report_run(store: Store, results: Sequence[Result]) -> Path:
    """Writes the report of a run; returns its path. A report is left as it is if the run found everything done."""
    from darec.report.naming import origin, report_name

    artifacts, release = origin(store, {each.stage: each.artifact.key for each in results if each.artifact})
    path = _default_path(store, report_name(artifacts, release))
    if not path.is_file() or not all(result.cached for result in results):
        from darec.report.render import write
        from darec.report.source import Source

        write(Source(store, artifacts, release), path)
    return path


def report_link(path: Path) -> str:
    """The address of a report for a browser: a page that a server sent can open no file:// link."""
    address = os.environ.get(REPORTS_URL)
    return f"{address}/{quote(path.name)}" if address else path.as_uri()


def _default_path(store: Store, name: str) -> Path:
    return folder(store) / f"{name}.html"


def folder(store: Store) -> Path:
    """Where reports are written."""
    return store.root / "reports"
