"""Compares the quality of the texts of two prompts, from ledgers and artifacts, without running a stage."""

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from darec.artifacts.files import TRAIN_PART
from darec.artifacts.ledger import KEY
from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.common.progress import Progress
from darec.text import quality
from darec.text.budget import one_run
from darec.text.encoder import Embedding
from darec.text.entities import ITEM_TEXT_VARIABLES, USER_TEXT_VARIABLES
from darec.text.generate import conversation_keys
from darec.text.judge import judge
from darec.text.profiling import ProfileTask
from darec.text.protocol import Engine
from darec.text.quality import Floats, Judged, Lift, Measured, Report, Texts
from schemas import columns as c
from schemas.recipe import Recipe
from stages import embed
from stages.contract import StageContext
from stages.prompts import PromptUse, check_prompt, prompt_context, prompt_use

_FEWEST = 20  # minimum number of rows


def measure_prompt(
    recipe: Recipe,
    store: Store,
    name: str,
    path: str | None = None,
    *,
    most_rows: int = quality.MOST_ROWS,
    seed: int = 0,
    judge_prompt: str | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> Report:
    """Measures the texts of the recipe's prompt `name`, and of the template in `path` on the same rows.

    No texts are requested from the LLM: rows without an answer to either prompt are left out.

    Args:
        recipe: prompt and encoder.
        store: artifacts and ledgers.
        name: the name of the prompt (`stages.prompts.PROMPTS`).
        path: another template.
        most_rows: maximum number of rows, a random sample.
        seed: of the sample and of the bootstrap.
        judge_prompt: the template of an LLM as judge; None for no judge.
        progress: shows how many texts are encoded and judged.
        engine: replaces the configured engine of the judge.

    Raises:
        UserError: there is no such prompt, it is faulty, a stage before it has not run, or too few rows are known.
    """
    use = prompt_use(name)
    if path is not None:
        check_prompt(use, path)
    with store.in_use():
        context, upstream = prompt_context(use, recipe, path, store, progress)

        # Both prompts are measured on the same rows, and on the train pairs of these rows.
        paths = [use.path(recipe), *([path] if path is not None else [])]
        table, tables = _tables(use, context, paths)
        rows = _sample(tables, most_rows, seed)
        index = c.ITEM_INDEX if c.ITEM_INDEX in table.columns else c.USER_INDEX
        chosen = table[rows]
        pairs = quality.interaction_matrix(TRAIN_PART.of(upstream["split"]), chosen[index].to_numpy(), index)

        measured: list[Measured] = []
        lifts: list[Lift | None] = []
        for each, texts in zip(paths, tables, strict=True):
            part = _texts(texts[rows], chosen, name, each, context)
            found, lift = quality.measure(part, pairs, chosen[c.ATTRIBUTES], seed)
            measured.append(Measured(each, found))
            lifts.append(lift)
            if judge_prompt is not None and use.task is not None and lift is not None:
                scores = _scores(part, chosen, use.task(context), judge_prompt, progress, engine)
                measured[-1] = replace(measured[-1], judged=_judged(scores, lift))

    change = None
    if len(lifts) == 2 and lifts[0] is not None and lifts[1] is not None:
        change = quality.change(lifts[0], lifts[1], seed)
    return Report(name, table.height, measured[0], measured[1] if path is not None else None, change)


def _tables(use: PromptUse, context: StageContext, paths: list[str]) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """The rows of the table, and for each prompt their `text`, `fallback` and `tokens`; text is null if not known."""
    if use.rows is not None:
        rows = use.rows(context)
        rendered = [embed.render_texts(rows, path, use.variables) for path in paths]
        columns = (pl.lit(False).alias("fallback"), pl.lit(None, pl.Int32).alias("tokens"))
        return rows, [texts.to_frame("text").with_columns(columns) for texts in rendered]

    assert use.task is not None
    task: ProfileTask = use.task(context)
    prompts = [replace(task, config=task.config.model_copy(update={"prompt": path})) for path in paths]
    return task.rows, [_known(each) for each in prompts]


def _known(task: ProfileTask) -> pl.DataFrame:
    keys = conversation_keys(task.conversations(), task.llm, task.config)
    held = task.ledger.get(keys, ["text", "cause", "output_tokens"])
    known = keys.to_frame().join(held, on=KEY, how="left", maintain_order="left")
    metadata = task.rows.select(task.from_metadata.alias("metadata"))
    fallback = pl.col("cause") != ""
    text = pl.when(fallback).then("metadata").otherwise("text")

    return pl.concat([known, metadata], how="horizontal").select(
        text=text, fallback=fallback.fill_null(False), tokens=pl.when(~fallback).then("output_tokens")
    )


def _sample(tables: list[pl.DataFrame], most_rows: int, seed: int) -> NDArray[np.int64]:
    """Rows that all prompts have a text for, at most `most_rows` of them, in the order of the table."""
    known = np.logical_and.reduce([table["text"].is_not_null().to_numpy() for table in tables])
    rows = np.flatnonzero(known)
    if len(rows) < _FEWEST:
        missing = [number for number, table in enumerate(tables) if table["text"].count() < _FEWEST]
        option = " --ask-old" if 0 in missing else ""
        what = f"only {len(rows)} rows have a text under {'both prompts' if len(tables) > 1 else 'the prompt'}"
        hint = f"`darec prompt try NAME --prompt FILE --rows 300{option}` asks the LLM for more"
        raise UserError(f"{what}, and at least {_FEWEST} are needed", hint=hint)

    return np.sort(np.random.default_rng(seed).permutation(rows)[:most_rows])


def _texts(known: pl.DataFrame, rows: pl.DataFrame, name: str, path: str, context: StageContext) -> Texts:
    """The texts with their vectors, and the vectors of the rendered texts that training would use."""
    config, texts = context.recipe.embed, known["text"]
    full = texts
    if name == "profile_items":
        described = rows.with_columns(texts.alias(c.PROFILE))
        full = embed.render_texts(described, config.item_prompt, ITEM_TEXT_VARIABLES)
    elif name == "profile_users":
        described = rows.with_columns(texts.alias(c.PROFILE))
        full = embed.render_texts(described, config.user_prompt, USER_TEXT_VARIABLES)

    vectors, _ = Embedding(config, context.ledger, context.progress).run(pl.concat([texts, full.alias("text")]))
    tokens = known["tokens"] if known["tokens"].count() else None
    return Texts(texts, vectors[: len(texts)], vectors[len(texts) :], known["fallback"], tokens)


def _scores(
    texts: Texts,
    rows: pl.DataFrame,
    task: ProfileTask,
    prompt: str,
    progress: Progress | None,
    engine: Engine | None,
) -> Floats:
    metadata = rows.select(task.from_metadata.alias("metadata"))["metadata"]
    with one_run():
        return judge(texts.profiles.to_list(), metadata.to_list(), prompt, task.llm, task.ledger_root, progress, engine)


def _judged(scores: Floats, lift: Lift) -> Judged:
    correlation, p_value, rows = quality.agreement(scores, lift)
    known = scores[np.isfinite(scores)]
    return Judged(float(known.mean()) if len(known) else float("nan"), correlation, p_value, rows)
