"""Sources on the command line: files and URLs as in a recipe, and tables as ADDRESS#TABLE or ADDRESS#QUERY.

postgresql://reader@db.example.com/shop#events
shop.duckdb#SELECT * FROM events
adbc_driver_sqlite:shop.sqlite#events
delta:s3://lake/events
iceberg:shop.events, or iceberg:CATALOG/shop.events
"""

import re
from pathlib import Path
from typing import Any

from darec.common.errors import UserError
from schemas.places import scheme

_FORMS: tuple[tuple[str, str], ...] = (
    (r"(?P<url>(postgresql|postgres)://.*)", "postgresql"),
    (r"(?P<driver>adbc_driver_\w+):(?P<url>.*)", "adbc"),
    (r"(?P<file>.+\.(duckdb|ddb))", "duckdb"),
)


def place_of(text: str) -> str | dict[str, Any]:
    """The source as in a recipe.

    Raises:
        UserError: a database without a table or query.
    """
    if text.startswith("delta:"):
        return {"kind": "delta", "table": text.removeprefix("delta:")}
    if text.startswith("iceberg:"):
        catalog, slash, table = text.removeprefix("iceberg:").rpartition("/")
        return {"kind": "iceberg", "table": table} | ({"catalog": catalog} if slash else {})

    if scheme(text) is None and (Path(text) / "_delta_log").is_dir():
        return {"kind": "delta", "table": text}

    address, _, wanted = text.partition("#")
    for pattern, kind in _FORMS:
        if match := re.fullmatch(pattern, address):
            if not wanted:
                hint = f"name a table or a query: '{kind} address#TABLE'"
                raise UserError("this is a database, not a table", where=text, hint=hint)
            is_query = len(wanted.split()) > 1
            return {"kind": kind, **match.groupdict(), "query": wanted if is_query else f"SELECT * FROM {wanted}"}

    return text
