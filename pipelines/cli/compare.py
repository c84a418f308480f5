"""`darec compare`: two recipes, run to evaluation on the same split."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from darec.artifacts.store import Store
from darec.common.files import replace_text
from darec.common.recipes import load_recipe
from pipelines.cli.options import JsonOption, print_json
from pipelines.reports import check_free
from pipelines.show import console
from pipelines.tables import print_table

if TYPE_CHECKING:
    from darec.serving.paired import MetricRow


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="The first recipe.")],
    second: Annotated[
        Path | None, typer.Argument(metavar="B", help="The second recipe.", show_default="A with the --set values")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override one value of the second recipe. May be repeated.")
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="Metric that selects the example users, such as recall@20.")
    ] = "",
    examples: Annotated[
        int, typer.Option("--examples", min=0, help="Number of example users with a gain, and with a loss.")
    ] = 3,
    out: Annotated[Path, typer.Option("--out", help="HTML page to write.")] = Path("comparison.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing HTML page.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run two recipes to evaluation and compare their metrics user by user, on the same split.

    Both runs use the store of the first recipe, so shared stages run once. Nothing is published.
    """
    from darec.report.comparison import comparison_page
    from pipelines.direct import compare_directly

    check_free(out, overwrite)
    a, b = load_recipe(first), load_recipe(second or first, overrides or ())
    names = (first.stem, second.stem if second else ", ".join(overrides or ["the same"]))
    b = b.model_copy(update={"runtime": a.runtime})
    found = compare_directly(names, (a, b), Store(a.runtime.store), metric, examples)
    replace_text(out, comparison_page(found))
    if as_json:
        print_json(asdict(found))
        return

    title = f"{found.users:,} users, second minus first"
    print_table(title, ("metric", *names, "difference", "95% interval", "p"), map(_row, found.metrics))
    for part in found.texts:
        console.print(f"{part.stage}: {part.changed:,} of {part.rows:,} profiles differ")
    console.print(f"Page: {out}")


def _row(pair: "MetricRow") -> tuple[str | float, ...]:
    interval = f"{pair.low:+.4f} to {pair.high:+.4f}"
    return pair.name, pair.first, pair.second, f"{pair.difference:+.4f}", interval, f"{pair.wilcoxon:.2g}"
