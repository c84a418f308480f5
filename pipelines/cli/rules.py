"""Options that set rules, and merging them into the rules of the recipe."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from darec.common.errors import UserError
from darec.common.recipes import explain
from schemas.rules import RulesConfig

_PANEL = "Rules"

OnlyOption = Annotated[
    Path | None, typer.Option("--only", help="File of candidate items, one id per line.", rich_help_panel=_PANEL)
]
InStockOption = Annotated[
    Path | None, typer.Option("--in-stock", help="File of items in stock, one id per line.", rich_help_panel=_PANEL)
]
BlockOption = Annotated[
    list[str] | None,
    typer.Option("--block", help="Item to exclude. May be repeated.", rich_help_panel=_PANEL),
]
CategoryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--category",
        help="NAME=VALUE,VALUE: only such items. May be repeated.",
        rich_help_panel=_PANEL,
    ),
]
BlockCategoryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--block-category",
        help="NAME=VALUE,VALUE: no such items. May be repeated.",
        rich_help_panel=_PANEL,
    ),
]
AtMostOption = Annotated[
    list[str] | None,
    typer.Option(
        "--at-most", help="NAME=N: at most N items that share a value of NAME. May be repeated.", rich_help_panel=_PANEL
    ),
]
SeenOption = Annotated[
    bool | None,
    typer.Option(
        "--seen/--unseen", help="Include or exclude items that the user has interacted with.", rich_help_panel=_PANEL
    ),
]
DiversityOption = Annotated[
    float | None,
    typer.Option("--min-diversity", help="Minimum diversity of a list, from 0 to 2.", rich_help_panel=_PANEL),
]

OnlyNewOption = Annotated[
    bool | None,
    typer.Option("--only-new/--old-and-new", help="Show only new items, or new and old ones.", rich_help_panel=_PANEL),
]
NewShareOption = Annotated[
    float | None,
    typer.Option("--new-share", help="Minimum share of new items in a list.", rich_help_panel=_PANEL),
]
NewUpToOption = Annotated[
    int | None,
    typer.Option("--new-up-to", help="Maximum number of interactions of a new item.", rich_help_panel=_PANEL),
]


def requested(
    recipe: RulesConfig,
    only: Path | None = None,
    in_stock: Path | None = None,
    block: list[str] | None = None,
    category: list[str] | None = None,
    block_category: list[str] | None = None,
    at_most: list[str] | None = None,
    seen: bool | None = None,
    min_diversity: float | None = None,
    only_new: bool | None = None,
    new_share: float | None = None,
    new_up_to: int | None = None,
) -> RulesConfig:
    """The recipe's rules with the options of a request applied; blocked items are added to the recipe's.

    Raises:
        UserError: an option that is not of the form NAME=VALUE, or a value that is not valid.
    """
    from darec.serving.rules import ids_of

    given: dict[str, Any] = {"only": only, "in_stock": in_stock, "seen": seen, "min_diversity": min_diversity}
    given |= {"only_new": only_new, "new_share": new_share, "new_up_to": new_up_to}
    values = recipe.model_dump(exclude_unset=True) | {name: value for name, value in given.items() if value is not None}
    if block:
        values["blocked"] = [*ids_of("blocked", recipe.blocked), *block]

    for rule, options in (("categories", category), ("blocked_categories", block_category)):
        if options:
            named = {name: value.split(",") for name, value in _pairs(rule, options)}
            values[rule] = getattr(recipe, rule) | named

    if at_most:
        values["at_most"] = recipe.at_most | dict(_pairs("at_most", at_most))
    try:
        return RulesConfig.model_validate(values)
    except ValidationError as error:
        raise explain(error, "rules", RulesConfig) from error


def _pairs(rule: str, options: list[str]) -> list[tuple[str, Any]]:
    pairs = [option.partition("=") for option in options]
    for name, equals, value in pairs:
        if not (name and equals and value):
            what = f"{name + equals + value!r} does not say NAME={'N' if rule == 'at_most' else 'VALUE'}"
            raise UserError(what, where=f"rules.{rule}", hint="name an attribute of export.attributes")
    return [(name, value) for name, _, value in pairs]
