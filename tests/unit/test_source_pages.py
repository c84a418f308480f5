"""The recipes on the pages about remote sources are valid, and every kind of source has a page."""

import re
from pathlib import Path

import pytest
import yaml

from darec.common.recipes import configure
from darec.dataset.remote import sources_in
from schemas.places import OBJECT_STORES, TABLES
from schemas.recipe import Recipe

PAGES = Path(__file__).parents[2] / "docs" / "sources"
SNIPPETS = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in sorted(PAGES.glob("*.md"))
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("text", SNIPPETS)
def test_a_recipe_on_a_page_is_valid_and_names_a_remote_source(text, tmp_path):
    recipe = configure(Recipe, yaml.safe_load(text), where="the page")
    assert list(sources_in(recipe.data, tmp_path))


def test_every_source_has_a_page_with_a_recipe():
    shown = "\n".join(page.read_text() for page in PAGES.glob("*.md") if page.stem != "index")
    assert {kind for kind in TABLES if f"kind: {kind}" in shown} == set(TABLES)
    assert all(f"{scheme}://" in shown for scheme in (*OBJECT_STORES, "https"))
    assert {page.stem for page in PAGES.glob("*.md")} == {"index", "objects", "web", *TABLES}
