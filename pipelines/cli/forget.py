"""`darec forget`: remove a person from the store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from darec.common.errors import DarecError
from darec.dataset.remote import local, sources_in
from darec.dataset.sources import source_files
from pipelines.cli.options import JsonOption, RecipeOption, SetOption, open_recipe, print_json
from pipelines.show import console
from pipelines.tables import print_table
from schemas.copies import COPIES
from schemas.data import DataConfig


def forget(
    user: Annotated[str, typer.Option("--user", help="External user id.")],
    why: Annotated[str, typer.Option("--why", help="Reason, which is kept in the receipt.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a person from the store: artifacts, releases, row ledgers, reports. They are also
    removed from the vector store and the lists of all users of the recipe.

    Other users get the same recommendations as before. Copies of remote sources are rewritten or deleted. The raw data
    itself is not changed: remove the person there, too, or the next run brings them back. A receipt in <store>/receipts
    lists what was removed and what is left to do.
    """
    from darec.dataset.forgetting import CopiesOfPerson
    from darec.serving.forgetting import forget as remove

    loaded, store = open_recipe(recipe, overrides)
    folder = store.root / COPIES
    left = tuple(_outside(loaded.data, folder))
    copies = CopiesOfPerson(folder, user)
    receipt = remove(
        store,
        user,
        why=why,
        left=left,
        copies=copies,
        dry_run=dry_run,
        vectors=loaded.vectors,
        lists=loaded.lists,
        rules=loaded.rules,
    )
    if as_json:
        print_json(receipt.model_dump(mode="json"))
        return

    title = "Would be removed or rewritten" if dry_run else "Removed or rewritten"
    print_table(title, ("what", "count"), list(receipt.counts.items()))
    console.print("Not touched, and left to do:")
    for line in receipt.left:
        console.print(f"- {line}", highlight=False)


def _outside(data: DataConfig, copies: Path) -> Iterator[str]:
    """The raw data and the database of Prefect, which may contain the person."""
    remote = [source for source in sources_in(data, copies) if source.role in ("interactions", "users")]
    for source in remote:
        yield f"raw data: remove the person from {source.name}, or the next run brings them back"
    try:
        found = source_files(local(data, copies))
    except DarecError as error:
        yield f"raw data: it cannot be listed now ({error.what})"
        found = {}

    for role in ("interactions", "users"):
        for file in found.get(role, ()):
            if file.path.is_relative_to(copies):
                continue
            yield f"raw data: remove the person from {file.path}, or the next run brings them back"

    yield "the database of Prefect: samples of profiles in artifacts and logs of its runs"
