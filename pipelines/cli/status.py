"""`darec status`: the plan of a run."""

from pipelines.cli.options import (
    WHOLE_RUN,
    JsonOption,
    RecipeOption,
    SetOption,
    UntilOption,
    open_recipe,
    print_json,
)
from pipelines.show import plan_rows
from pipelines.tables import print_plan
from stages.plan import plan


def status(
    recipe: RecipeOption = None,
    overrides: SetOption = None,
    until: UntilOption = WHOLE_RUN,
    as_json: JsonOption = False,
) -> None:
    """Show for each stage whether it is a hit or stale, the reason, the rows to process, and its last duration.

    Below the table are the estimated tokens, minutes and, if the recipe has prices, costs of the LLM.
    """
    loaded, store = open_recipe(recipe, overrides)
    steps = plan(loaded, store, until)
    if as_json:
        print_json(plan_rows(steps))
    else:
        print_plan(steps, loaded.llm)
