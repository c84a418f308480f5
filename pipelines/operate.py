"""Flows that operators start manually from forms in the Prefect UI: run a stage again, promote, roll back, gc."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.common.files import replace_text
from darec.common.recipes import load_recipe
from darec.serving.releases import Releases
from darec.serving.retention import Collection, collect
from pipelines.flows import darec, is_transient
from pipelines.show_ui import UIBars, show_trial
from schemas.recipe import Recipe
from schemas.release import Release
from stages.execute import Result

StageName = Literal[
    "ingest",
    "split",
    "profile_items",
    "profile_users",
    "embed",
    "graph",
    "train_reference",
    "choose",
    "train",
    "rerank",
    "evaluate",
    "refit",
    "export",
    "publish",
    "lists",
    "vectors",
]
PromptName = Literal["profile_items", "profile_users", "item_text", "user_text"]
PROMPTED = ("profile_items", "profile_users")  # the stages whose recipe section has a `prompt`


@flow(name="rerun-stage", flow_run_name="rerun-{stage}")
def rerun_stage(
    *,
    stage: StageName = "profile_users",
    extent: Literal["only", "from here on"] = "from here on",
    force: bool = False,
    prompt: str = "",
    keep_prompt: bool = False,
    overrides: tuple[str, ...] = (),
    recipe: str = "",
) -> list[Result]:
    """Runs one stage again, and the stages that it needs. It is a hit unless something changed or `force` is set.

    Args:
        stage: the stage to run.
        extent: only: stop after the stage; from here on: continue to publish.
        force: run the stage even if nothing changed.
        prompt: for profile_items and profile_users: new text of the prompt template. If empty, the prompt file is used.
        keep_prompt: also overwrite the prompt file of the recipe (not of the overrides), so that later runs use the new
            text.
        overrides: `section.field=value` overrides of the recipe, for this run only.
        recipe: path of the recipe file; empty: the built-in defaults.
    """
    settings = list(overrides)
    if prompt.strip():
        path = edited_prompt(_load(recipe, settings), stage, prompt, _load(recipe) if keep_prompt else None)
        settings.append(f"{stage}.prompt={json.dumps(str(path))}")
    return darec(recipe or None, settings, stage if extent == "only" else "publish", [stage] if force else [])


@flow(name="try-prompt", flow_run_name="try-{stage}")
def try_prompt(
    *,
    stage: PromptName = "profile_items",
    prompt: str = "",
    rows: str = "30",
    ask_old: bool = False,
    seed: int = 0,
    overrides: tuple[str, ...] = (),
    recipe: str = "",
) -> int:
    """Tries a prompt on a few rows and shows its text for each row next to that of the prompt file.

    No stage is run, and only the answers of the LLM are kept. Returns the number of rows that were tried.

    Args:
        stage: the stage whose prompt it is; item_text and user_text are the templates of the texts for the encoder.
        prompt: the text of the new template.
        rows: a number of rows (a random sample), id:a,b for certain items or users, or fallbacks for the rows without
            a usable answer of the LLM.
        ask_old: also request missing answers to the prompt file.
        seed: seed of the random sample.
        overrides: `section.field=value` overrides of the recipe.
        recipe: path of the recipe file; empty: the built-in defaults.
    """
    from stages.prompts import check_text, run_trial

    content = prompt.replace("\r\n", "\n").rstrip("\n") + "\n"  # browsers send CRLF
    check_text(stage, content)
    loaded = _load(recipe, overrides)
    with TemporaryDirectory() as folder, UIBars(stage) as bars:
        path = Path(folder) / "the form's prompt"
        path.write_text(content, encoding="utf-8")
        store = Store(loaded.runtime.store)
        tried = run_trial(loaded, store, stage, str(path), rows, seed=seed, ask_old=ask_old, progress=bars)

    show_trial(replace(tried, new_path=path.name))
    return len(tried.rows)


def edited_prompt(recipe: Recipe, stage: str, text: str, nightly: Recipe | None = None) -> Path:
    """Writes `text` to a file named after its hash, and to the prompt file of the recipe `nightly`. Returns the first
    path.

    Keys contain the bytes of a prompt and not its path, so the same text in another file gives the same artifact.

    Raises:
        UserError: the stage has no prompt, or the prompt is not valid; nothing is written.
    """
    if stage not in PROMPTED:
        raise UserError(f"stage {stage!r} has no prompt", hint=f"leave the prompt empty, or choose one of {PROMPTED}")

    from stages.prompts import check_text

    content = text.replace("\r\n", "\n").rstrip("\n") + "\n"  # browsers send CRLF
    check_text(stage, content)
    path = Store(recipe.runtime.store).make("prompts") / f"{hashlib.sha256(content.encode()).hexdigest()[:20]}.j2"
    for target in (path, Path(getattr(nightly, stage).prompt)) if nightly else (path,):
        replace_text(target, content)
    return path


@flow(name="promote", flow_run_name="promote-{release}")
def promote(release: str, why: str = "by hand", recipe: str = "") -> str:
    """Makes a release current, regardless of the decision of the gate.

    Args:
        release: its id, or a unique prefix or suffix of it, as in `darec releases`.
        why: kept in the release's record.
        recipe: path of the recipe file whose store is meant; empty: the built-in defaults.
    """
    releases = _releases(recipe)
    left = releases.current()
    promoted = _announce(releases.promote(release, why=why), left, "promoted", why)
    _follow(_load(recipe))
    return promoted


@flow(name="rollback")
def rollback(why: str = "by hand", recipe: str = "") -> str:
    """Returns to the previous release. The replaced release is not published again automatically.

    Args:
        why: kept in the release's record.
        recipe: path of the recipe file whose store is meant; empty: the built-in defaults.
    """
    releases = _releases(recipe)
    left = releases.current()
    current = _announce(releases.rollback(why=why), left, "rolled back", why)
    _follow(_load(recipe))
    return current


@flow(name="gc")
def gc(dry_run: bool = False, recipe: str = "") -> int:
    """Removes artifacts that no kept release needs. Returns the number of bytes freed.

    Args:
        dry_run: only show what would be removed.
        recipe: path of the recipe file whose store and retention settings are meant; empty: the built-in defaults.
    """
    loaded = _load(recipe)
    collection = _collect(loaded, dry_run)
    rows = [{"what": r.kind, "path": str(r.path), "MB": round(r.bytes / 2**20, 2)} for r in collection.removed]
    verb = "would be removed" if dry_run else "removed"
    summary = f"{len(rows)} folders, {collection.bytes / 2**20:.1f} MB, {verb}; {collection.kept} artifacts stay"
    create_table_artifact(rows, key="gc", description=summary)
    return collection.bytes


@task(name="collect", cache_policy=NO_CACHE, retries=12, retry_delay_seconds=600, retry_condition_fn=is_transient)
def _collect(recipe: Recipe, dry_run: bool) -> Collection:
    """Waits up to two hours for an active run to end."""
    runtime = recipe.runtime
    return collect(Store(runtime.store), runtime.keep_releases, runtime.keep_artifacts, dry_run=dry_run)


@task(name="follow", cache_policy=NO_CACHE, retries=3, retry_delay_seconds=30, retry_condition_fn=is_transient)
def _follow(recipe: Recipe) -> None:
    """Makes the vector store and the lists of all users, if the recipe has them, those of the release in production."""
    from darec.serving import lists, vectors  # import Polars and FAISS

    store = Store(recipe.runtime.store)
    vectors.follow_by_hand(store, recipe.vectors)
    lists.follow_by_hand(Releases(store.root).serving(), recipe.lists, recipe.rules)


def _announce(release: Release, left: Release | None, verb: str, why: str) -> str:
    metrics = "\n".join(f"| {name} | {value} |" for name, value in sorted(release.report.metrics.items()))
    before = left.id if left else "none"
    text = f"**{release.id}** is in production ({verb}: {why}); before: {before}\n\n| metric | value |\n|---|---|\n"
    create_markdown_artifact(text + metrics, key="release", description=f"{release.id} {verb}")
    return release.id


def _releases(recipe: str) -> Releases:
    return Releases(Store(_load(recipe).runtime.store).root)


def _load(recipe: str, overrides: Sequence[str] = ()) -> Recipe:
    return load_recipe(Path(recipe) if recipe else None, overrides)
