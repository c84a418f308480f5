"""`darec config`: a recipe with all its values, and the schema of every field."""

from darec.common.strict_yaml import dump
from pipelines.cli.options import Commands, RecipeOption, SetOption, open_recipe, print_json
from pipelines.show import print_plain
from schemas.recipe import Recipe

app = Commands(help="Show a recipe with all its values, or the schema of every field.", no_args_is_help=True)


@app.command()
def show(recipe: RecipeOption = None, overrides: SetOption = None) -> None:
    """Print the recipe as YAML, with every default filled in."""
    loaded, _ = open_recipe(recipe, overrides)
    print_plain(dump(loaded.model_dump(mode="json")))


@app.command()
def schema() -> None:
    """Print the JSON schema of a recipe: every field with its type, default and description."""
    print_json(Recipe.model_json_schema())
