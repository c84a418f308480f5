"""The HTML report: `darec report`, and the last task of a run. Imports wait: a run with nothing to do pays little."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.serving.releases import Releases

REPORTS_URL = "DAREC_REPORTS_URL"
"""The environment variable that says where `<store>/reports` is served."""


def report(store: Store, release: str | None = None, out: Path | None = None) -> Path:
    """Writes the report of a release, the newest unless named; its path.

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


def report_run(store: Store, rows: Sequence[dict[str, Any]]) -> Path:
    """Writes the report of a run, given what became of its stages, and names it in the Prefect UI; its path.

    A report is left as it is if the run found everything done.
    """
    from prefect.artifacts import create_markdown_artifact

    from darec.report.naming import origin, report_name

    artifacts, release = origin(store, {row["stage"]: row["key"] for row in rows if row["key"]})
    name = report_name(artifacts, release)
    path = _default_path(store, name)
    if not path.is_file() or any(row["state"] != "cached" for row in rows):
        from darec.report.render import write
        from darec.report.source import Source

        write(Source(store, artifacts, release), path)
    # a browser opens no file:// link from a page that a server sent: then the path is there to be copied
    address = os.environ.get(REPORTS_URL)
    link = f"{address}/{quote(path.name)}" if address else path.as_uri()
    text = f"**{name}**\n\n[open the report]({link})\n\n`{path}`"
    create_markdown_artifact(text, key="report", description="The HTML report of this run")
    return path


def _default_path(store: Store, name: str) -> Path:
    return folder(store) / f"{name}.html"


def folder(store: Store) -> Path:
    """Where reports are written."""
    return store.root / "reports"
