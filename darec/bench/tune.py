"""Hyper-parameter search with Optuna: unpromising trials are pruned, and a killed search goes on where it was.

The study is a journal file under the search's folder, one for each key of data, settings and space; Optuna writes it as
lines of JSON.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from darec.bench.data import BenchData
from darec.bench.grid import train_config
from darec.errors import DarecError, UserError
from darec.keys import artifact_key, digest
from darec.progress import Progress, Silent
from darec.store import Store
from darec.training import train
from schemas.bench import Choice, FloatRange, Overrides, SearchRange, TuneRecipe
from schemas.section import hashed
from schemas.training import TrainConfig

Announce = Callable[[FrozenTrial], None]
_METRIC = "recall@20"
_ERROR, _AGAIN = "error", "again"
"""What a trial remembers: why it came to nothing, and the number of the trial that it does again."""
_DONE = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Search:
    """A search on one data set, with its study under `folder`."""

    recipe: TuneRecipe
    data: BenchData
    folder: Path
    progress: Progress

    @property
    def key(self) -> str:
        """Of everything but the number of trials: a search can be prolonged, under the defaults that it began with."""
        settings = {name: value for name, value in hashed(self.recipe).items() if name not in ("trials", "data")}
        corner = {path: _first(where) for path, where in self.recipe.space.items()}
        return artifact_key(
            {
                "search": settings,
                "train": hashed(self._config(corner)),
                "data": self.data.content,
                "text": self.data.text_content,
            }
        )

    def run(self, announce: Announce = lambda trial: None) -> optuna.Study:
        """Does the trials that are missing and gives the whole study; one process at a time works on it.

        Raises:
            UserError: the space makes no valid configuration, or no trial came through.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with Store(self.folder).lease(self.key):
            study = self._open()
            _requeue_killed(study)
            while len(finished(study)) < self.recipe.trials:
                study.optimize(self._trial, n_trials=1)
                self._drop_checkpoints()
                announce(study.trials[-1])
        if not study.get_trials(states=(TrialState.COMPLETE,)):
            raise UserError("no trial came through", where=self.recipe.name, mend="narrow the space or see the trials")
        return study

    def _open(self) -> optuna.Study:
        recipe, path = self.recipe, self.folder / f"{self.key}.journal"
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))),
            study_name=self.key,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(recipe.startup_trials, recipe.prune_after),
        )
        seed = recipe.seed + len(study.trials)  # the sampler's state is not kept: never draw the same trials again
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=recipe.startup_trials, seed=seed)
        return study

    def _config(self, chosen: Overrides) -> TrainConfig:
        return train_config(self.recipe.base, chosen, where=f"{self.recipe.name}: {chosen}")

    def _drop_checkpoints(self) -> None:
        """Only a killed trial's is ever needed."""
        for path in self.folder.glob(f"{self.key}-*.safetensors"):
            path.unlink()

    def _trial(self, trial: Trial) -> float:
        chosen = {path: _suggest(trial, path, where) for path, where in self.recipe.space.items()}
        config = self._config(chosen)

        def listener(epoch: int, values: dict[str, float]) -> None:
            trial.report(values[_METRIC], epoch // config.eval_every)
            if trial.should_prune():
                raise optuna.TrialPruned

        checkpoint = self.folder / f"{self.key}-{digest(chosen)[:8]}.safetensors"
        text = self.data.text if config.needs_text else None
        try:
            trained = train(
                config, self.data.interactions, text, resume=checkpoint, progress=self.progress, listener=listener
            )
        except DarecError as error:
            trial.set_user_attr(_ERROR, str(error))
            if isinstance(error, UserError):
                raise
            raise optuna.TrialPruned from error  # diverged: as bad as a pruned one
        trial.set_user_attr("best_epoch", trained.best_epoch)
        return trained.validation[_METRIC]


def search(recipe: TuneRecipe, data: BenchData, folder: Path, progress: Progress | None = None) -> Search:
    """The search of `recipe`, new or begun before in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return Search(recipe, data, folder, progress or Silent())


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: complete or pruned."""
    return study.get_trials(states=_DONE)


def _requeue_killed(study: optuna.Study) -> None:
    """Trials that were under way when their process died or was interrupted are done again, first of all.

    One that failed by the user's fault is not: it would do so again.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    again = {trial.user_attrs.get(_AGAIN) for trial in study.trials}
    for trial in study.get_trials(states=(TrialState.FAIL,)):
        if trial.number not in again and _ERROR not in trial.user_attrs:
            study.enqueue_trial(trial.params, user_attrs={_AGAIN: trial.number})


def _first(where: SearchRange) -> Any:
    return where.values[0] if isinstance(where, Choice) else where.low


def _suggest(trial: Trial, path: str, where: SearchRange) -> Any:
    if isinstance(where, Choice):
        return trial.suggest_categorical(path, where.values)
    if isinstance(where, FloatRange):
        return trial.suggest_float(path, where.low, where.high, log=where.log)
    return trial.suggest_int(path, where.low, where.high, step=where.step, log=where.log)
