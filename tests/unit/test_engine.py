"""The offline engine without its model: prompts that do not fit are cut, and a failing chunk costs no other."""

from pathlib import Path

import polars as pl
import pytest

from darec.text.engine import EngineSettings, OfflineEngine, _longest_fitting
from darec.text.entities import ITEM_VARIABLES, item_text_from_metadata, items_as_data
from darec.text.models import models_root
from darec.text.profiling import ProfileTask
from darec.text.protocol import Request
from schemas import columns as c
from schemas import tables
from schemas.semantic import ItemProfileConfig, LLMConfig

MODEL = models_root() / LLMConfig().model
FULL = {
    "Chinese": "天地玄黄宇宙洪荒日月盈昃辰宿列张",
    "emoji": "🦈🎬🏖️👩‍👩‍👧🍿🎻🪐🧊",
    "rare signs": "𠜎𠜱𠝹𠱓𠱸𠲖𠳏𠳕",
    "Latin": "A long tale of sharks and summers. ",
}


def doubled(numbers: list[int]) -> list[int]:
    if 13 in numbers:
        raise ValueError("thirteen")
    return [2 * number for number in numbers]


def settings(chunk: int) -> EngineSettings:
    config = LLMConfig(workers=1, chunk=chunk, dtype="float32")
    return EngineSettings.of(config, Path("/nonexistent"))


def test_chunks_before_a_failure_are_given_and_none_is_begun_after_it() -> None:
    with OfflineEngine(settings(chunk=2)) as engine:
        given: list[int] = []
        with pytest.raises(ValueError, match="thirteen"):
            for _, numbers in engine._spread(doubled, [1, 2, 3, 4, 13, 6, *range(20, 400)]):
                given += numbers
    assert given[:4] == [2, 4, 6, 8]
    assert 12 not in given, "the chunk that failed gives nothing"
    assert len(given) < 386, "chunks that nobody had begun were cancelled"


def full_task(folder: Path, texts: list[str]) -> ProfileTask:
    """Items whose every field is as long as it may be."""
    ids = [f"i{number}" for number in range(len(texts))]
    long = [text * 200 for text in texts]
    rows = {
        c.ITEM: ids,
        c.TITLE: long,
        c.DESCRIPTION: long,
        c.ATTRIBUTES: [[{"name": f"a{n}", "value": text} for n in range(8)] for text in long],
    }
    vocabulary = pl.DataFrame({c.ITEM_INDEX: range(len(ids)), c.ITEM: ids}, schema=tables.ITEM_VOCABULARY)
    return ProfileTask(
        rows=items_as_data(vocabulary, pl.DataFrame(rows, schema=tables.ITEMS)),
        variables=ITEM_VARIABLES,
        from_metadata=item_text_from_metadata(),
        llm=LLMConfig(),
        config=ItemProfileConfig(),
        ledger_root=folder,
    )


@pytest.mark.skipif(not MODEL.is_dir(), reason="the LLM is not fetched: darec models fetch")
def test_texts_within_all_limits_fit_the_model_whatever_their_script(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    task = full_task(tmp_path, list(FULL.values()))
    room = task.llm.max_model_len - task.config.max_tokens

    def count(messages) -> int:
        return len(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False))

    whole = task.conversations()
    too_long = [name for name, messages in zip(FULL, whole, strict=True) if count(messages) > room]
    assert {"Chinese", "emoji"} <= set(too_long) and "Latin" not in too_long

    for row, (name, messages) in enumerate(zip(FULL, whole, strict=True)):
        request = Request("k", messages, 0, 0.0, task.shorter(row))
        tokens = _longest_fitting(tokenizer, request, room)
        assert len(tokens) <= room, name
        if name not in too_long:
            assert len(tokens) == count(messages), "a prompt that fits stays as it is"
            continue
        used = next(version for version in request.shorter if count(version) <= room)
        assert used[:-1] == messages[:-1], "the instructions and examples are never cut"
        assert len(tokens) > room / 2, "and no more of the data than has to be"
