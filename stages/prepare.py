"""Prepares a run: checks memory, disk, GPU and prompts, and fetches public data, remote sources and models."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.common.memory import check_address_space
from darec.dataset import remote
from darec.dataset.fetch import fetch
from darec.dataset.remote import has_remote
from darec.text import models
from schemas.copies import COPIES
from schemas.recipe import Recipe
from schemas.section import hashed
from schemas.semantic import EmbedConfig, LLMConfig
from stages.contract import Stage
from stages.registry import LAST, needed

_logger = logging.getLogger(__name__)


def prepare(recipe: Recipe, target: str = LAST) -> None:
    """Fetches the data and models that the run needs and that do not exist yet, and checks its requirements.

    A missing text encoder or GPU, a faulty prompt and a folder of lists that cannot be written are reported here, and
    not after hours of LLM requests.

    Args:
        recipe: of the run.
        target: the last stage of the run. What only later stages need is neither fetched nor checked.

    Raises:
        UserError: too little memory or free disk space, a missing model or GPU, a faulty prompt, or lists that cannot
            be written.
        TransientError: a download failed.
    """
    check_address_space()
    check_free_disk(Store(recipe.runtime.store).root, recipe.runtime.min_free_gb)
    check_device(recipe, target)
    if target == LAST and recipe.lists and isinstance(recipe.lists.out, Path):
        from darec.serving.lists import check_replaceable

        check_replaceable(recipe.lists.out)
    if recipe.search:
        from darec.training.search import candidates

        candidates(recipe.search, recipe.train, recipe.split.items == "all")

    if recipe.data.source == "movielens-100k":
        fetch("ml-100k", recipe.data.folder)
    read_sources(recipe)
    for config in models_here(recipe, target):
        models.ensure(config.model)
        models.resolve(config.model, config.revision)

    check_prompts(recipe, target)


def read_sources(recipe: Recipe, *, full: bool = False) -> list[str]:
    """Updates the local copies of remote sources. Returns a message for each.

    Args:
        recipe: whose section `data` names the sources.
        full: whether tables with a watermark, and files that have not changed, are read again.

    Raises:
        UserError: a source does not exist, access is denied, or it lacks a column.
        TransientError: a source cannot be reached.
    """
    if not has_remote(recipe.data):
        return []
    store = Store(recipe.runtime.store)
    with store.in_use(), store.lease(COPIES):
        done = remote.fetch(recipe.data, store.make(COPIES), full=full)
    for line in done:
        _logger.info("%s", line)
    return done


def models_here(recipe: Recipe, target: str = LAST) -> Iterator[LLMConfig | EmbedConfig]:
    """The models that run on this machine, up to stage `target`."""
    stages = {task.name for task in needed(recipe, target)}
    if "profile_items" in stages and recipe.llm.engine == "offline":
        yield recipe.llm
    if "embed" in stages and recipe.embed.engine != "ray":
        yield recipe.embed


def fetch_model(model: str, revision: str, *, named: bool) -> str:
    """Fetches one model if it does not exist. Returns a message with its folder.

    Args:
        model: alias, Hugging Face id or folder.
        revision: of a Hugging Face id.
        named: whether the user named the model. Only then a Hugging Face id is downloaded; otherwise it must exist.
    """
    before = models.find(model, revision)
    if named and models.is_hub_id(model):
        models.fetch_from_hub(model, revision)
    elif named:
        models.fetch(model)
    else:
        models.ensure(model)

    folder = models.resolve(model, revision)
    return f"exists already, {folder}" if folder == before else f"fetched, {folder}"


def check_prompts(recipe: Recipe, target: str = LAST) -> None:
    """Raises UserError for a prompt that cannot be rendered, of the stages up to `target`."""
    store = Store(recipe.runtime.store)
    for stage in needed(recipe, target):
        if isinstance(stage, Stage) and stage.counts_rows:
            # Validating a prompt starts a process. The prompt of the newest artifact has already been validated.
            newest, extra = store.latest(stage.name), hashed(dict(stage.fingerprint(recipe)))
            if newest is None or newest.manifest.fingerprint.get("extra") != extra:
                stage.load().check(recipe)


def check_device(recipe: Recipe, target: str = LAST) -> None:
    """Raises UserError if training or evaluation, up to stage `target`, requires a GPU and there is none."""
    stages = {task.name for task in needed(recipe, target)}
    for section in ("train", "evaluate"):
        if section in stages and (wanted := getattr(recipe, section).device) == "cuda":
            from darec.common.device import pick

            pick(wanted, f"{section}.device")


def check_free_disk(folder: Path, wanted_gb: float) -> None:
    """Raises UserError if the disk that holds `folder` has less than `wanted_gb` GiB free."""
    existing = next(path for path in [folder.resolve(), *folder.resolve().parents] if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    if free < wanted_gb:
        raise UserError(
            f"{free:.2f} GiB free, {wanted_gb:g} GiB wanted",
            where=str(existing),
            hint="free space (`darec gc`) or lower runtime.min_free_gb",
        )
