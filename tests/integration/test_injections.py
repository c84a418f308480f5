"""Hostile item texts on the real model: what bystanders are told does not change, and answers keep to their form."""

from pathlib import Path

import polars as pl
import pytest

from darec.text.engine import EngineSettings, OfflineEngine
from darec.text.models import models_root, resolve
from schemas import columns as c
from schemas.semantic import ItemProfileConfig, LLMConfig
from tests.injections import INJECTIONS
from tests.integration.llm_rows import GENRES, TITLES, task_of

pytestmark = pytest.mark.skipif(
    not (models_root() / LLMConfig().model).is_dir(), reason="the LLM is not fetched: darec models fetch"
)
BYSTANDERS = 6


def test_bystanders_in_the_same_batch_are_answered_the_same_and_every_answer_keeps_to_its_form(tmp_path: Path) -> None:
    titles, genres = list(TITLES[:BYSTANDERS]), list(GENRES[:BYSTANDERS])
    llm = LLMConfig(workers=1, chunk=64, dtype="float32", max_model_len=512, kv_cache_mib=512)
    crowd = list(INJECTIONS.values())
    with OfflineEngine(EngineSettings.of(llm, resolve(llm.model))) as engine:
        alone, _ = task_of(tmp_path / "alone", titles, genres, llm).run(engine=engine)
        mixed, report = task_of(tmp_path / "mixed", titles + crowd, genres + crowd, llm).run(engine=engine)
    assert mixed[c.PROFILE].head(BYSTANDERS).to_list() == alone[c.PROFILE].to_list()
    assert report["rows"] == mixed.height == BYSTANDERS + len(INJECTIONS)
    told = mixed.filter(pl.col(c.SOURCE) == "llm")[c.PROFILE]
    assert len(told) >= 0.8 * mixed.height, report["causes"]
    assert told.str.len_chars().is_between(8, ItemProfileConfig().max_chars).all()
    assert not mixed[c.PROFILE].str.contains(r"[\x00-\x1f<>|]").any()
