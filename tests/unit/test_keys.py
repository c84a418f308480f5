"""Keys: every field that can change a result changes the key, no runtime field does, order never."""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from darec.artifacts.keys import artifact_key, content_hash, differences
from darec.common.hashing import canonical_json, digest, file_sha256
from schemas.recipe import Recipe
from schemas.secret import SecretURL
from schemas.section import Section, added, hashed, is_not_hashed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), JSON, min_size=2, max_size=6))
def test_field_order_never_matters(value: dict[str, Any]) -> None:
    assert digest(value) == digest(dict(reversed(list(value.items()))))


@given(JSON, JSON)
def test_different_values_have_different_keys(left: Any, right: Any) -> None:
    assert (digest(left) == digest(right)) == (canonical_json(left) == canonical_json(right))


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError):
        digest({"x": float("nan")})


TOGETHER: dict[str, dict[str, Any]] = {
    "llm.batch_api": {"llm.engine": "server", "llm.batch_api": True},
    "graph.event_weights": {"data.repeats": "sum", "graph.event_weights": "log"},
    "train.backbone.name": {"train.backbone": {"name": "mf"}},
    "train.backbone.edge_sampling": {"train.backbone.edge_keep": 0.8, "train.backbone.edge_sampling": "degree"},
    "train.text.whitening": {"train.text.whiten": 64, "train.text.whitening": 0.5},
    "train.loss.name": {"train.loss": {"name": "softmax"}},
    "train.dislikes": {"data.dislike_below": 3.0, "train.dislikes": "avoid"},
    "train.fuse": {"train.fuse": {}},
    "search": {"search": {}},
    "rerank": {"rerank": {"name": "mmr"}},
    "evaluate.cutoffs": {"evaluate.cutoffs": [5, 10, 20, 50]},
    "gate.tolerances": {"gate.tolerances": {"recall@20": 0.1}},
    "gate.minimums": {"gate.minimums": {"coverage@20": 0.02}},
    "rules.categories": {"export.attributes": ["genres"], "rules.categories": {"genres": ["Comedy"]}},
    "rules.blocked_categories": {"export.attributes": ["genres"], "rules.blocked_categories": {"genres": ["Comedy"]}},
    "rules.at_most": {"export.attributes": ["genres"], "rules.at_most": {"genres": 2}},
    "lists": {"lists": {}},
    "vectors": {"vectors": {}},
    "tracking": {"tracking": {}},
    "data.events": {"data.events": {"view": 1.0}},
}
"""Fields whose other values are sections and tables, or are valid only together with other fields."""


def _leaves(section: BaseModel, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Every leaf field of a recipe as (path, whether it or a section above it is runtime)."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        here = (*path, name)
        if isinstance(value, BaseModel) and not is_not_hashed(type(section), name):
            yield from _leaves(value, here)
        elif ".".join(here) != "evaluate.protocol":  # the only one there is
            yield here, is_not_hashed(type(section), name)


def _alternatives(annotation: Any, value: Any) -> Iterator[Any]:
    """Other values that a field of this annotation may take."""
    origin = get_origin(annotation)
    if origin is Literal:
        yield from (option for option in get_args(annotation) if option != value)
    elif origin in (Union, types.UnionType):
        for option in get_args(annotation):
            yield from (None,) if option is type(None) and value is not None else _alternatives(option, value)
    elif origin is Annotated:
        yield from _alternatives(get_args(annotation)[0], value)
    elif origin is dict:
        yield from ({"view": 2.0}, {"train": "pool"})
    elif isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from ({name: other} for other in _alternatives(field.annotation, getattr(value, name)))
    elif isinstance(value, SecretURL):
        yield "http://127.0.0.1:1/v1"
    elif annotation is bool:
        yield not value
    elif annotation in (int, float):
        base = value if isinstance(value, int | float) else 1
        yield from (base + 1, base / 2 if annotation is float else max(base - 1, 1), base + 0.01, 0.5, 7)
    elif annotation in (str, Path):
        yield from (f"{value}x", "prompts/user_profile.j2", "other", "latin-1", "movielens-1m", "|", "none")
    elif isinstance(value, tuple | list) or origin is tuple:
        value = value or ()
        yield from (
            ("x",),
            ("http://127.0.0.1:1/v1",),
            ("case",),
            (),
            (*value, *value),
            [5],
            ["x"],
            [{"name": "rlmrec-con"}],
            [0.6, 0.2, 0.2],
            [0.8, 0.1, 0.1],
        )


def _replaced(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    data = recipe.model_dump()
    for path, value in values.items():
        *above, last = path.split(".")
        inner = data
        for name in above:
            inner = inner[name]
        inner[last] = value
    return Recipe.model_validate(data)


def _annotation(recipe: BaseModel, path: tuple[str, ...]) -> Any:
    for name in path[:-1]:
        recipe = getattr(recipe, name)
    return type(recipe).model_fields[path[-1]].annotation


def _changed(recipe: Recipe, path: tuple[str, ...]) -> Recipe:
    value: Any = recipe
    for name in path:
        value = getattr(value, name)
    annotation = _annotation(recipe, path)
    name = ".".join(path)
    together = [TOGETHER[name]] if name in TOGETHER else []
    for values in [*together, *({name: other} for other in _alternatives(annotation, value))]:
        try:
            changed = _replaced(recipe, values)
        except ValidationError:
            continue
        if changed != recipe:
            return changed
    pytest.fail(f"no other valid value is known for {name}: add one to TOGETHER")


LEAVES = list(_leaves(Recipe()))


@pytest.mark.parametrize(("path", "is_free"), LEAVES, ids=[".".join(path) for path, _ in LEAVES])
def test_hashed_fields_change_the_key_and_runtime_fields_do_not(path: tuple[str, ...], is_free: bool) -> None:
    name = ".".join(path)
    needed = {other: value for other, value in TOGETHER.get(name, {}).items() if not name.startswith(other)}
    recipe = _replaced(Recipe(), needed)
    changed = _changed(recipe, path)
    section = path[0]
    before, after = (artifact_key({"config": hashed(getattr(one, section))}) for one in (recipe, changed))
    assert (before == after) == is_free


def test_an_engine_with_the_same_rows_has_the_same_key() -> None:
    def key(**sections: Any) -> str:
        return artifact_key({"config": hashed(Recipe.model_validate(sections))})

    assert key() == key(llm={"engine": "ray", "ray": {"cpus": 4}}) != key(llm={"engine": "server"})
    assert key(embed={"engine": "vllm"}) == key(embed={"engine": "ray"}) != key()


def test_content_hash_sees_only_the_named_files() -> None:
    files = {"a": "1", "b": "2"}
    assert content_hash(files, ["a"]) == content_hash({"a": "1", "b": "3"}, ["a"])
    assert content_hash(files, ["a"]) != content_hash({"a": "4", "b": "2"}, ["a"])


def test_file_hash_is_sha256(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    assert file_sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_differences_name_the_leaf() -> None:
    old, new = {"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": "x"}
    assert differences(old, new) == ["a.c: 2 -> 3", 'd: null -> "x"']


def test_another_hash_is_only_said_to_have_changed() -> None:
    old, new = {"file": digest(1), "seed": 1}, {"file": digest(2), "seed": 2}
    assert differences(old, new) == ["file: changed", "seed: 1 -> 2"]
    assert differences({"file": None}, {"file": digest(1)}) == [f'file: null -> "{digest(1)[:38]}…']


def test_a_field_that_was_added_later_is_in_the_key_only_where_it_is_used() -> None:
    class Before(Section):
        size: int = 1

    class After(Before):
        shape: str = added("round")

    assert hashed(After()) == hashed(Before())
    assert hashed(After(shape="square")) == {"size": 1, "shape": "square"}


def test_the_default_of_a_later_field_may_differ_from_the_behaviour_before_it() -> None:
    class Before(Section):
        size: int = 1

    class After(Before):
        every: int = added(6, before=0)

    assert hashed(After(every=0)) == hashed(Before())
    assert hashed(After()) == {"size": 1, "every": 6}
