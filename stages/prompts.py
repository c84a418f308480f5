"""Trying prompts on the artifacts of earlier stages, without running a stage."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl

from darec.artifacts.store import Artifact, Store
from darec.common.errors import UserError
from darec.common.progress import Progress
from darec.text.budget import one_run
from darec.text.encoder import token_counts
from darec.text.entities import ITEM_TEXT_VARIABLES, ITEM_VARIABLES, USER_TEXT_VARIABLES, USER_VARIABLES
from darec.text.profiling import ProfileTask
from darec.text.prompts import Prompt, chat_prompt
from darec.text.protocol import Engine
from darec.text.trial import Side, Trial, TriedRow, chosen_rows, id_column, try_prompt
from schemas import columns as c
from schemas.recipe import Recipe
from stages import embed, profile_items, profile_users
from stages.contract import Pending, Stage, StageContext
from stages.costs import cost_lines, estimate
from stages.execute import stage_context
from stages.plan import finished
from stages.registry import STAGES, needed


@dataclass(frozen=True)
class PromptUse:
    """Where a prompt is used."""

    stage: str
    variables: tuple[str, ...]
    path: Callable[[Recipe], str]
    """The template that a recipe names."""
    task: Callable[[StageContext], Any] | None = None
    """The table of rows for the LLM; None for a template of the encoder."""
    rows: Callable[[StageContext], pl.DataFrame] | None = None
    """The variables of each text of the encoder."""


PROMPTS = {
    "profile_items": PromptUse(
        "profile_items",
        ITEM_VARIABLES,
        lambda recipe: recipe.profile_items.prompt,
        task=profile_items.profile_task,
    ),
    "profile_users": PromptUse(
        "profile_users",
        USER_VARIABLES,
        lambda recipe: recipe.profile_users.prompt,
        task=profile_users.profile_task,
    ),
    "item_text": PromptUse("embed", ITEM_TEXT_VARIABLES, lambda recipe: recipe.embed.item_prompt, rows=embed.item_rows),
    "user_text": PromptUse("embed", USER_TEXT_VARIABLES, lambda recipe: recipe.embed.user_prompt, rows=embed.user_rows),
}
"""The prompts by their names on the command line."""


def prompt_use(name: str) -> PromptUse:
    """The prompt of that name. Raises UserError if there is none."""
    if name not in PROMPTS:
        raise UserError(f"there is no prompt {name!r}", hint=f"choose one of {', '.join(PROMPTS)}")
    return PROMPTS[name]


def check_prompt(use: PromptUse, path: str) -> None:
    """Raises UserError for a template that is not valid for the stage."""
    if use.task is not None:
        chat_prompt(path, use.variables)
    else:
        Prompt(path, use.variables, ("text",))


def check_text(name: str, content: str) -> None:
    """Like `check_prompt`, for the text of a template from a form."""
    with TemporaryDirectory() as folder:
        draft = Path(folder) / "prompt.j2"
        draft.write_text(content, encoding="utf-8")
        try:
            check_prompt(prompt_use(name), str(draft))
        except UserError as error:
            where = error.where.replace(str(draft), "the form's prompt")
            raise UserError(error.what, where=where, hint=error.hint) from error


def prompt_context(
    use: PromptUse, recipe: Recipe, path: str | None, store: Store, progress: Progress | None = None
) -> tuple[StageContext, dict[str, Artifact]]:
    """The context of the prompt's stage, with the inputs that the template in `path` shows, too, and the artifacts of
    all stages before it.

    The recipe's own prompt may not show dislikes, so that the stage does not read them, while the template does.

    Raises:
        UserError: a stage that it reads has no artifact for this recipe.
    """
    stage, wider = STAGES[use.stage], recipe
    if path is not None and use.stage == "profile_users":
        tried = recipe.model_copy(update={use.stage: recipe.profile_users.model_copy(update={"prompt": path})})
        wider = max(recipe, tried, key=lambda each: len(stage.reads(each)))
    upstream = finished(wider, store, [task for task in needed(wider, stage.name) if task.name != stage.name])
    context = stage_context(stage, wider, upstream, store, progress=progress)
    return replace(context, recipe=recipe, config=stage.config(recipe)), upstream


def run_trial(
    recipe: Recipe,
    store: Store,
    name: str,
    path: str,
    wanted: str,
    *,
    seed: int = 0,
    ask_old: bool = False,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> Trial:
    """Tries the template in `path` instead of prompt `name`, on a few rows; see `darec.text.trial.try_prompt`.

    Raises:
        UserError: there is no such prompt, it is faulty, or a stage before it has not run.
        DarecError: the engine cannot be started or ended.
    """
    use = prompt_use(name)
    check_prompt(use, path)
    with store.in_use():
        context, _ = prompt_context(use, recipe, path, store, progress)
        if use.task is None:
            return _try_text(name, use, context, path, wanted, seed)
        task = use.task(context)

    with one_run():
        trial = try_prompt(name, task, path, wanted, seed=seed, ask_old=ask_old, progress=progress, engine=engine)
    return replace(trial, notes=tuple(_whole_table(task, path, STAGES[use.stage], recipe, store, trial)))


def _whole_table(task: ProfileTask, path: str, stage: Stage, recipe: Recipe, store: Store, trial: Trial) -> list[str]:
    """The cost of the new prompt for the rows that were not tried."""
    new = replace(task, config=task.config.model_copy(update={"prompt": path}))
    pending = Pending(*new.forecast())
    cost = estimate(stage, pending, recipe, store, None, trial.report)
    return cost_lines([("the rest of the table", pending.rows, cost)], recipe.llm)


def _try_text(name: str, use: PromptUse, context: StageContext, path: str, wanted: str, seed: int) -> Trial:
    """The texts that both templates give to the encoder."""
    assert use.rows is not None
    table = use.rows(context)
    rows = table[chosen_rows(table, wanted, seed=seed)]
    config, present = context.recipe.embed, use.path(context.recipe)
    sides = []
    for template in (present, path):
        texts = embed.render_texts(rows, template, use.variables)
        counts = token_counts(config, texts)
        sides.append([Side(text, text, "", count) for text, count in zip(texts, counts, strict=True)])

    cut = sum(side.prompt_tokens is not None and side.prompt_tokens > config.max_tokens for side in sides[1])
    note = (
        f"{cut:,} of {rows.height:,} new texts are longer than embed.max_tokens ({config.max_tokens}) and are truncated"
    )
    titles = rows[c.TITLE] if c.TITLE in rows.columns else [""] * rows.height
    tried = zip(rows[id_column(rows)], titles, *sides, strict=True)
    return Trial(name, present, path, tuple(TriedRow(*row) for row in tried), notes=(note,) if cut else ())
