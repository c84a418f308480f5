"""`darec recommend`: items for a user of the release, or for a history."""

from typing import Annotated

import typer

from darec.common.errors import UserError
from pipelines.cli.options import CountOption, JsonOption, RecipeOption, SetOption, open_recipe, print_json
from pipelines.cli.rules import (
    AtMostOption,
    BlockCategoryOption,
    BlockOption,
    CategoryOption,
    DiversityOption,
    InStockOption,
    OnlyOption,
    SeenOption,
    requested,
)
from pipelines.cli.serving import current_bundle
from pipelines.tables import print_table


def recommend(
    users: Annotated[list[str] | None, typer.Option("--user", help="External user id. May be repeated.")] = None,
    histories: Annotated[
        list[str] | None,
        typer.Option("--history", help="Items that an unknown user liked: ITEM,ITEM,... May be repeated."),
    ] = None,
    k: CountOption = 10,
    only: OnlyOption = None,
    in_stock: InStockOption = None,
    block: BlockOption = None,
    category: CategoryOption = None,
    block_category: BlockCategoryOption = None,
    at_most: AtMostOption = None,
    seen: SeenOption = None,
    min_diversity: DiversityOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the best unseen items of a user or for a history, from the current release."""
    from darec.serving.recommend import recommend_histories, recommend_many

    if bool(users) == bool(histories):
        raise UserError("name users or histories", where="--user, --history", hint="give one of the two options")
    loaded, store = open_recipe(recipe, overrides)
    rules = requested(loaded.rules, only, in_stock, block, category, block_category, at_most, seen, min_diversity)
    bundle = current_bundle(store.root)
    if histories:
        answer = recommend_histories(bundle, [history.split(",") for history in histories], k, rules)
        asked, column = list(enumerate(histories)), "history"
    else:
        answer = recommend_many(bundle, users or [], k, rules)
        asked, column = [(user, f"user {user}") for user in dict.fromkeys(users or [])], "user_id"
    if as_json:
        print_json(answer.to_dicts())
        return
    for key, name in asked:
        rows = answer.filter(answer[column] == key).drop(column)
        empty = f"Nothing for {name}: no unseen item is left that the rules allow"
        print_table(f"For {name}", rows.columns, rows.rows(), text="title", empty=empty)
