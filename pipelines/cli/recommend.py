"""`darec recommend`: items for a user of the release, or for a history."""

from pathlib import Path
from typing import Annotated, Any

import typer

from darec.common.errors import UserError
from pipelines.cli.options import JsonOption, RecipeOption, SetOption, open_recipe, print_json
from pipelines.cli.rules import (
    AtMostOption,
    BlockCategoryOption,
    BlockOption,
    CategoryOption,
    DiversityOption,
    InStockOption,
    NewShareOption,
    NewUpToOption,
    OnlyNewOption,
    OnlyOption,
    SeenOption,
    requested,
)
from pipelines.cli.serving import current_bundle
from pipelines.show import Bars, console
from pipelines.tables import print_table
from schemas.lists import Format, ListsConfig
from schemas.rules import RulesConfig

_UserOption = Annotated[list[str] | None, typer.Option("--user", help="External user id. May be repeated.")]
_HistoryOption = Annotated[
    list[str] | None, typer.Option("--history", help="Items that a new user liked: ITEM,ITEM,... May be repeated.")
]
_CountOption = Annotated[
    int | None, typer.Option("-k", min=1, help="Number of items.", show_default="10, with --all 20")
]

_PANEL = "Lists of all users"
_AllOption = Annotated[
    bool, typer.Option("--all", help="Write the lists of all users to files.", rich_help_panel=_PANEL)
]
_OutOption = Annotated[
    str | None,
    typer.Option(
        "--out", help="Folder of the files, or s3://bucket/folder. Existing lists are replaced.", rich_help_panel=_PANEL
    ),
]
_FormatOption = Annotated[Format | None, typer.Option("--format", help="Format of the files.", rich_help_panel=_PANEL)]
_PartitionsOption = Annotated[
    int | None, typer.Option("--partitions", min=1, help="Number of files.", rich_help_panel=_PANEL)
]


def recommend(
    users: _UserOption = None,
    histories: _HistoryOption = None,
    k: _CountOption = None,
    all_users: _AllOption = False,
    out: _OutOption = None,
    file_format: _FormatOption = None,
    partitions: _PartitionsOption = None,
    only: OnlyOption = None,
    in_stock: InStockOption = None,
    block: BlockOption = None,
    category: CategoryOption = None,
    block_category: BlockCategoryOption = None,
    at_most: AtMostOption = None,
    seen: SeenOption = None,
    min_diversity: DiversityOption = None,
    only_new: OnlyNewOption = None,
    new_share: NewShareOption = None,
    new_up_to: NewUpToOption = None,
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recommend unseen items for users or histories, or write the lists of all users to files."""
    given = [name for name, value in (("--user", users), ("--history", histories), ("--all", all_users)) if value]
    if not given:
        hint = "give --user ID, --history ITEM,ITEM or --all --out FOLDER"
        raise UserError("name users, histories, or all users", where="--user, --history, --all", hint=hint)
    if len(given) > 1:
        what = f"{' and '.join(given)} cannot be given together"
        raise UserError(what, where="darec recommend", hint="call the command once for each")

    loaded, store = open_recipe(recipe, overrides)
    lists = {"block": block, "category": category, "block_category": block_category, "at_most": at_most}
    new = {"only_new": only_new, "new_share": new_share, "new_up_to": new_up_to}
    rules = requested(loaded.rules, only, in_stock, seen=seen, min_diversity=min_diversity, **lists, **new)
    if all_users:
        options = {"out": out, "k": k, "format": file_format, "partitions": partitions}
        _write_all(store.root, loaded.lists or ListsConfig(), options, rules, as_json)
    else:
        _show(store.root, users or [], histories or [], k or 10, rules, as_json)


def _show(store: Path, users: list[str], histories: list[str], k: int, rules: RulesConfig, as_json: bool) -> None:
    """Shows the items of some users, or for some histories."""
    from darec.serving.recommend import recommend_histories, recommend_many

    bundle = current_bundle(store)
    if histories:
        answer = recommend_histories(bundle, [history.split(",") for history in histories], k, rules)
        asked, column = list(enumerate(histories)), "history"
    else:
        answer = recommend_many(bundle, users, k, rules)
        asked, column = [(user, f"user {user}") for user in dict.fromkeys(users)], "user_id"

    if as_json:
        print_json(answer.to_dicts())
        return

    for key, name in asked:
        rows = answer.filter(answer[column] == key).drop(column)
        empty = f"Nothing for {name}: no unseen item is left that the rules allow"
        print_table(f"For {name}", rows.columns, rows.rows(), text="title", empty=empty)


def _write_all(store: Path, section: ListsConfig, given: dict[str, Any], rules: RulesConfig, as_json: bool) -> None:
    """Writes the lists of all users. Options replace the fields of the recipe's section `lists`."""
    from darec.serving.lists import write_lists

    name, _, suffix = str(given["out"] or "").rpartition(".")
    if suffix in ("csv", "parquet", "jsonl"):
        hint = f"give --out {name} --format {suffix}"
        raise UserError("the lists are several files in a folder, not one file", where="--out", hint=hint)

    config = ListsConfig.model_validate(
        section.model_dump() | {name: value for name, value in given.items() if value is not None}
    )
    with Bars("lists") as bars:
        manifest = write_lists(current_bundle(store), config.out, config, rules, bars)
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return

    console.print(f"{manifest.rows:,} items for {manifest.users:,} users in {manifest.seconds:.1f} s: {config.out}")
