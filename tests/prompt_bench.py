"""A small store up to the split, a server that answers, and prompts to try."""

from pathlib import Path
from typing import Any

from darec.common.recipes import load_recipe
from schemas.recipe import Recipe
from stages.walk import run
from tests.stores import recipe_for

TEMPLATE = "{{% block system %}}{system}{{% endblock %}}\n{{% block user %}}{user}{{% endblock %}}\n"
ITEM = "{{ title }}{% for attribute in attributes %}; {{ attribute.value }}{% endfor %}"


def template(path: Path, user: str = ITEM, system: str = "Say.") -> str:
    path.write_text(TEMPLATE.format(system=system, user=user))
    return str(path)


def bench_settings(folder: Path, url: str, **llm: Any) -> list[str]:
    """Overrides for a recipe whose LLM is the server at `url`, with short prompts."""
    settings = {"engine": "server", "server_url": url, "model": "stub", "retries": 0, **llm}
    old = template(folder / "old.j2")
    users = template(folder / "users.j2", "{% for item in items %}{{ item.title }}: {{ item.profile }}; {% endfor %}")
    prompts = [f"profile_items.prompt={old}", f"profile_users.prompt={users}"]
    return [f"llm.{name}={value}" for name, value in settings.items()] + prompts


def bench_recipe(folder: Path, url: str, until: str = "split", **llm: Any) -> Recipe:
    """The recipe, after a run until the stage `until`."""
    recipe = load_recipe(recipe_for(folder, folder / "store"), bench_settings(folder, url, **llm))
    run(recipe, until)
    return recipe
