"""`darec recommend`: items for a user."""

from typing import Annotated

import typer

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
    users: Annotated[list[str], typer.Option("--user", help="External user id. May be repeated.")],
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
    """Show the best unseen items of a user, from the current release."""
    from darec.serving.recommend import recommend_many

    loaded, store = open_recipe(recipe, overrides)
    rules = requested(loaded.rules, only, in_stock, block, category, block_category, at_most, seen, min_diversity)
    answer = recommend_many(current_bundle(store.root), users, k, rules)
    if as_json:
        print_json(answer.to_dicts())
        return
    for user in dict.fromkeys(users):
        rows = answer.filter(user_id=user).drop("user_id")
        empty = f"Nothing for user {user}: no unseen item is left that the rules allow"
        print_table(f"For user {user}", rows.columns, rows.rows(), text="title", empty=empty)
