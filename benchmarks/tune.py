"""Hyper-parameter search with Optuna: unpromising trials are pruned, and a killed search can be continued.

The study is a journal file under the search's folder, one for each key of data, settings and space; Optuna writes it as
lines of JSON.
"""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from benchmarks.data import BenchData
from benchmarks.runs import VERSION
from darec.artifacts.keys import artifact_key
from darec.artifacts.store import Store
from darec.common.errors import UserError
from darec.common.hashing import digest
from darec.common.overrides import overlay
from darec.common.progress import Progress, Silent
from darec.common.recipes import configure
from darec.training import DivergedError, Trained, train
from schemas.bench import Choice, FloatRange, Method, Overrides, SearchRange, TuneRecipe
from schemas.recipe import Recipe
from schemas.section import hashed
from schemas.training import TrainConfig

Announce = Callable[[FrozenTrial], None]
_METRIC = "recall@20"
_ERROR, _AGAIN = "error", "again"
"""Attributes of a trial: the reason of a failure, and the number of the trial that it repeats."""
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)
_NOT_IN_THE_KEY = ("trials", "data", "base", "methods")
"""Fields of a search's recipe that are not hashed into its key themselves."""


@dataclass(frozen=True)
class SearchContext:
    """The common base of all trials."""

    recipe: Recipe
    """The search space."""
    sections: tuple[str, ...]
    """The sections that trials may change."""
    data: Callable[[Recipe], BenchData]
    """Computes the training and validation data of a recipe."""


def given(data: BenchData) -> SearchContext:
    """Existing data, independent of the recipe: only training is searched."""
    return SearchContext(Recipe(), ("train",), lambda recipe: data)


@dataclass(frozen=True)
class Search:
    """The search for one method, with its study under `folder`."""

    recipe: TuneRecipe
    """The configuration of this method only: its `base` is a complete Recipe."""
    ground: SearchContext
    folder: Path
    progress: Progress

    @cached_property
    def key(self) -> str:
        """The key of everything except the number of trials, so that a search can be extended.

        Prompts, models and raw data are included through the artifacts of the base recipe.
        """
        search = {name: value for name, value in hashed(self.recipe).items() if name not in _NOT_IN_THE_KEY}
        corner, data = self.configured(_corner(self.recipe.space)), self.ground.data(self.configured({}))
        settings = {section: hashed(getattr(corner, section)) for section in self.ground.sections}
        return artifact_key(
            {"version": VERSION, "search": search, "data": data.content, "text": data.text_content, **settings}
        )

    def configured(self, chosen: Overrides) -> Recipe:
        """The recipe of a trial. Raises UserError for an unknown field or an invalid value."""
        return configure(Recipe, self.recipe.base, chosen, where=f"{self.recipe.name}: {chosen}")

    def run(self, announce: Announce = lambda trial: None) -> optuna.Study:
        """Runs the missing trials and returns the study; only one process at a time works on it.

        Raises:
            UserError: the configuration of a trial is not valid, or no trial was completed.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder.mkdir(parents=True, exist_ok=True)
        with Store(self.folder).lease(self.key):
            study = self._open()
            _requeue_killed(study)
            while len(finished(study)) < self.recipe.trials:
                study.optimize(self._trial, n_trials=1)
                self._drop_checkpoints()
                announce(study.trials[-1])

        if not study.get_trials(states=(TrialState.COMPLETE,)):
            raise UserError("no trial was completed", where=self.recipe.name, hint="narrow the space or see the trials")
        return study

    def _open(self) -> optuna.Study:
        recipe, path = self.recipe, self.folder / f"{self.key}.journal"
        _cut_incomplete_line(path)
        try:
            study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path))),
                study_name=self.key,
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner(recipe.startup_trials, recipe.prune_after),
            )
        except ValueError as error:
            hint = "restore it from a backup, or delete it to search again from the first trial"
            raise UserError(f"the journal of the search is damaged ({error})", where=str(path), hint=hint) from error
        # The sampler's state is not stored, and the same trials must not be drawn again.
        seed = recipe.seed + len(study.trials)
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=recipe.startup_trials, seed=seed)
        return study

    def _drop_checkpoints(self) -> None:
        """Deletes checkpoints, which only killed trials need."""
        for path in self.folder.glob(f"{self.key}-*.safetensors"):
            path.unlink()

    def _trial(self, trial: Trial) -> float:
        chosen = {path: _suggest(trial, path, where) for path, where in self.recipe.space.items()}
        try:
            recipe = self.configured(chosen)
            trained = self._train(trial, recipe.train, self.ground.data(recipe))
        except UserError as error:
            trial.set_user_attr(_ERROR, str(error))
            raise

        trial.set_user_attr("best_epoch", trained.best_epoch)
        return trained.validation[_METRIC]

    def _train(self, trial: Trial, config: TrainConfig, data: BenchData) -> Trained:
        if not len(data.interactions.val):
            hint = "label some interactions val"
            raise UserError("there are no validation pairs to search by", where=data.name, hint=hint)

        def listener(epoch: int, values: dict[str, float]) -> None:
            trial.report(values[_METRIC], epoch // config.eval_every)
            if trial.should_prune():
                raise optuna.TrialPruned

        try:
            return train(
                config,
                data.interactions,
                data.text if config.needs_text else None,
                adjacency=data.adjacency,
                resume=self.folder / f"{self.key}-{digest(trial.params)[:8]}.safetensors",
                progress=self.progress,
                listener=listener,
            )
        except DivergedError as error:  # counts like a pruned one
            trial.set_user_attr(_ERROR, str(error))
            raise optuna.TrialPruned from error


def searches(
    recipe: TuneRecipe, ground: SearchContext, out: Path, progress: Progress | None = None, only: Collection[str] = ()
) -> list[Search]:
    """The search of each method, or of those in `only`, in its folder under `out`, where an earlier call may have
    started it.

    Raises:
        UserError: a method that is not in the recipe, or a field that does not exist or may not be changed.
    """
    for name in only:
        if name not in recipe.methods:
            hint = f"known: {', '.join(recipe.methods)}"
            raise UserError(f"method {name!r} is not in the recipe", where=recipe.name, hint=hint)
    methods = {f"{recipe.name}-{name}": method for name, method in recipe.methods.items() if not only or name in only}
    alone = [_alone(recipe, name, method, ground) for name, method in (methods or {recipe.name: Method()}).items()]
    return [Search(each, ground, out / each.name, progress or Silent()) for each in alone]


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Number of complete or pruned trials."""
    return study.get_trials(states=_DONE)


def _alone(recipe: TuneRecipe, name: str, method: Method, ground: SearchContext) -> TuneRecipe:
    """One method's recipe, merged over that of the search; its paths are validated before the first trial."""
    space = recipe.space | method.space
    for path in [*recipe.base, *method.base, *space]:
        section = path.partition(".")[0]
        if section in Recipe.model_fields and section not in ground.sections:
            hint = f"name fields of {', '.join(ground.sections)}: trials are compared on the same held-out pairs"
            raise UserError(f"a search cannot change {path!r}", where=recipe.name, hint=hint)

    base = overlay(Recipe, ground.recipe.model_dump(), recipe.base, method.base, where=name)
    configure(Recipe, base, _corner(space), where=name)
    return recipe.model_copy(update={"name": name, "base": base, "space": space, "methods": {}})


def _cut_incomplete_line(journal: Path) -> None:
    """Removes a last line of which only a part was written when the disk was full or the power failed. Optuna can
    neither read it nor append after it.
    """
    content = journal.read_bytes() if journal.exists() else b""
    if content and not content.endswith(b"\n"):
        os.truncate(journal, content.rfind(b"\n") + 1)


def _requeue_killed(study: optuna.Study) -> None:
    """Trials whose process died or was interrupted are run again first.

    A trial that failed with a user error is not, because it would fail again.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    again = {trial.user_attrs.get(_AGAIN) for trial in study.trials}
    for trial in study.get_trials(states=(TrialState.FAIL,)):
        if trial.number not in again and _ERROR not in trial.user_attrs:
            study.enqueue_trial(trial.params, user_attrs={_AGAIN: trial.number})


def _corner(space: Mapping[str, SearchRange]) -> Overrides:
    """The first value of every field."""
    return {path: where.values[0] if isinstance(where, Choice) else where.low for path, where in space.items()}


def _suggest(trial: Trial, path: str, where: SearchRange) -> Any:
    if isinstance(where, Choice):
        return trial.suggest_categorical(path, where.values)
    if isinstance(where, FloatRange):
        return trial.suggest_float(path, where.low, where.high, log=where.log)
    return trial.suggest_int(path, where.low, where.high, step=where.step, log=where.log)
