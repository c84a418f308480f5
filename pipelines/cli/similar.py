"""`darec similar`: items similar to an item."""

from typing import Annotated

import typer

from pipelines.cli.options import CountOption, JsonOption, RecipeOption, SetOption, open_recipe, print_json
from pipelines.cli.rules import (
    BlockCategoryOption,
    BlockOption,
    CategoryOption,
    InStockOption,
    OnlyOption,
    requested,
)
from pipelines.cli.serving import current_bundle
from pipelines.tables import print_table


def similar(
    item: Annotated[str, typer.Option("--item", help="External item id.")],
    k: CountOption = 10,
    only: OnlyOption = None,
    in_stock: InStockOption = None,
    block: BlockOption = None,
    category: CategoryOption = None,
    block_category: BlockCategoryOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the items most similar to an item, from the current release, of those that the rules allow."""
    from darec.serving.recommend import similar as similar_items

    loaded, store = open_recipe(recipe, overrides)
    rules = requested(loaded.rules, only, in_stock, block, category, block_category)
    bundle = current_bundle(store.root)
    answer = similar_items(bundle, item, k, rules)
    if as_json:
        print_json(answer.to_dicts())
        return

    title = bundle.items.filter(item_id=item)["title"][0]
    print_table(
        f"Like item {item}: {title}", answer.columns, answer.rows(), text="title", empty="There are no other items"
    )
