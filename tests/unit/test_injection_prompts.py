"""Hostile item texts stay data: no row but their own changes, no turn is opened, and every text stays bounded."""

import json
import re
from functools import cache

import polars as pl
import pytest

from darec.text.entities import ITEM_VARIABLES, USER_VARIABLES, items_as_data, users_as_data, values
from darec.text.generate import Conversation, conversation_keys
from darec.text.histories import choose_pairs
from darec.text.models import models_root
from darec.text.prompts import ATTRIBUTE_CHARS, DESCRIPTION_CHARS, TITLE_CHARS, chat_prompt
from schemas import columns as c
from schemas import tables
from schemas.semantic import ItemProfileConfig, LLMConfig, UserProfileConfig
from tests.injections import INJECTIONS

ITEMS, USERS, VICTIM = 12, 16, 5
MODEL = models_root() / LLMConfig().model


def item_rows(hostile: str | None) -> pl.DataFrame:
    """Twelve plain items; with `hostile` in the title, description and attribute of one of them, as its profile too."""
    texts = [f"Plain Film {number}" for number in range(ITEMS)]
    texts[VICTIM] = hostile if hostile is not None else texts[VICTIM]
    catalogue = pl.DataFrame(
        {
            c.ITEM: [f"i{number:02d}" for number in range(ITEMS)],
            c.TITLE: texts,
            c.DESCRIPTION: texts,
            c.ATTRIBUTES: [[{"name": "genres", "value": text}] for text in texts],
        },
        schema=tables.ITEMS,
    )
    vocabulary = pl.DataFrame({c.ITEM_INDEX: range(ITEMS), c.ITEM: catalogue[c.ITEM]}, schema=tables.ITEM_VOCABULARY)
    return items_as_data(vocabulary, catalogue).with_columns(pl.Series(c.PROFILE, texts))


@cache
def item_conversations(hostile: str | None) -> list[Conversation]:
    prompt = chat_prompt(ItemProfileConfig().prompt, ITEM_VARIABLES)
    return [prompt.messages(row) for row in values(item_rows(hostile), ITEM_VARIABLES)]


@cache
def user_conversations(hostile: str | None) -> list[Conversation]:
    """Every user has liked three items in a row, so that some know the hostile one."""
    pairs = [(user, (user + step) % ITEMS) for user in range(USERS) for step in range(3)]
    train = pl.DataFrame(pairs, schema=[c.USER_INDEX, c.ITEM_INDEX], orient="row").with_columns(
        pl.lit(5.0).alias(c.RATING)
    )
    vocabulary = pl.DataFrame({c.USER_INDEX: range(USERS), c.USER: [f"u{user:02d}" for user in range(USERS)]})
    known = pl.DataFrame({c.USER: vocabulary[c.USER], c.ATTRIBUTES: [[] for _ in range(USERS)]}, schema=tables.USERS)
    numbers = train.cast({c.USER_INDEX: pl.Int32, c.ITEM_INDEX: pl.Int32})
    users, items = vocabulary.cast(tables.USER_VOCABULARY), item_rows(hostile)
    rows = users_as_data(users, known, items, choose_pairs(numbers, users, items, 3, 0))
    prompt = chat_prompt(UserProfileConfig().prompt, USER_VARIABLES)
    return [prompt.messages(row) for row in values(rows, USER_VARIABLES)]


def changed(before: list[Conversation], after: list[Conversation], config: ItemProfileConfig | UserProfileConfig):
    """The rows whose ledger key is another; every other row's prompt is the same to the byte."""
    keys = [conversation_keys(conversations, LLMConfig(), config) for conversations in (before, after)]
    rows = [row for row, (old, new) in enumerate(zip(*keys, strict=True)) if old != new]
    assert rows == [row for row, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    return rows


@pytest.mark.parametrize("name", INJECTIONS)
def test_no_other_row_changes(name: str) -> None:
    hostile = INJECTIONS[name]
    assert changed(item_conversations(None), item_conversations(hostile), ItemProfileConfig()) == [VICTIM]
    knows_it = [user for user in range(USERS) if (VICTIM - user) % ITEMS < 3]
    assert changed(user_conversations(None), user_conversations(hostile), UserProfileConfig()) == knows_it


@pytest.mark.parametrize("name", INJECTIONS)
def test_it_is_one_bounded_line_in_its_quotes(name: str) -> None:
    plain, hostile = item_conversations(None)[VICTIM], item_conversations(INJECTIONS[name])[VICTIM]
    assert [turn["role"] for turn in hostile] == [turn["role"] for turn in plain]
    assert hostile[:-1] == plain[:-1]
    asked = hostile[-1]["content"]
    assert "\n" not in asked and asked.count('"') in (4, 6)  # an empty description is left out
    assert len(asked) <= TITLE_CHARS + ATTRIBUTE_CHARS + DESCRIPTION_CHARS + 20
    assert not re.search(r"[<>＜＞﹤﹥|｜]|[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]", asked)


@pytest.mark.skipif(not MODEL.is_dir(), reason="the LLM is not fetched: darec models fetch")
def test_the_tokenizer_finds_no_control_token_in_data() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    control = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in control

    def marks(conversation: Conversation) -> list[int]:
        prompt = tokenizer.apply_chat_template(list(conversation), add_generation_prompt=True, return_dict=False)
        return [token for token in prompt if token in control]

    for make in (item_conversations, user_conversations):
        plain = [marks(conversation) for conversation in make(None)]
        for name, hostile in INJECTIONS.items():
            assert [marks(conversation) for conversation in make(hostile)] == plain, name


def test_the_corpus_is_large_and_every_text_another() -> None:
    assert len(INJECTIONS) >= 30
    assert len({json.dumps(text) for text in INJECTIONS.values()}) == len(INJECTIONS)
