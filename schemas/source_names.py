"""The sources that `data.source` may name: the plain layouts of files, and public data sets.

A public data set is one YAML file under `sources/`. Its `layouts` are `data` sections of a recipe, with paths relative
to the folder of the data. The first layout whose files exist is used; what the user's recipe sets takes precedence. To
add a source, add a file there.
"""

from pathlib import Path
from typing import Literal, get_args

PlainName = Literal["csv", "tsv", "json", "parquet", "recbole", "lightgcn", "headings", "blocks", "matrix"]
FormatName = PlainName | Literal["movielens-100k-items"]

SOURCES: dict[str, Path | None] = dict.fromkeys(get_args(PlainName)) | {
    path.stem: path for path in sorted((Path(__file__).parent / "sources").glob("*.yaml"))
}
"""Maps the name of each source to the file that describes it, or to None for a plain layout."""
