"""Trains a model from pairs and text vectors to representations of all nodes, in one or several processes, or in closed
form.
"""

from dataclasses import replace
from pathlib import Path

import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from darec.common.device import pick
from darec.common.errors import UserError
from darec.common.interactions import Interactions, Representations
from darec.common.progress import Progress, Silent
from darec.model import closed_form, cold_start
from darec.model.propagation import Adjacency
from darec.training import fusing, parallel
from darec.training.history import History
from darec.training.sizing import validation_pairs
from darec.training.trainer import Listener, Trained, Trainer, validate
from schemas.backbones import ClosedFormConfig
from schemas.training import TrainConfig


def train(
    config: TrainConfig,
    interactions: Interactions,
    text: Representations | None = None,
    *,
    adjacency: Adjacency | None = None,
    warm: Tensor | None = None,
    last_epoch: int | None = None,
    resume: Path | None = None,
    progress: Progress | None = None,
    listener: Listener | None = None,
    text_share: float | None = None,
) -> Trained:
    """Trains a model. On a CPU, equal arguments and an equal number of threads give identical results.

    A closed-form model is computed in one epoch. It has no state and no checkpoint, and ignores `warm`.

    Args:
        config: model, objectives and schedule.
        interactions: train and validation pairs.
        text: text vectors of all nodes. Required if `config.needs_text`.
        adjacency: the train graph; by default the symmetrically normalised graph of the train pairs.
        warm: initial id embeddings, [N, dim]. Values that are not finite are initialised at random.
        last_epoch: stops after this epoch. Schedules still use `config.epochs`, so that the run is a prefix of a longer
            one.
        resume: path of the checkpoint, which is written during training. If it exists and its settings are equal,
            training resumes from it.
        progress: shows the progress in epochs.
        listener: called after each evaluation.
        text_share: the share of the text columns (`train.fuse`) instead of the one that validation would choose.

    Raises:
        UserError: the data or configuration allow no training, or text vectors are not finite.
        DivergedError: the loss, the parameters or the scores are no longer finite.
        DarecError: the checkpoint cannot be read or written.
    """
    _check_text(text)
    device = pick(config.device, "train.device")
    if config.processes > 1:
        progress = progress or Silent()
        trained = parallel.train(config, interactions, text, adjacency, warm, last_epoch, resume, progress, listener)
        return _finished(trained, config, text, interactions, text_share)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        if isinstance(config.backbone, ClosedFormConfig):
            text = text.to(device) if text else None
            return _compute(config, config.backbone, interactions.to(device), text, text_share, listener)
        trainer = Trainer(config, interactions, text, adjacency, device)
        trainer.progress, trainer.listener = progress or Silent(), listener
        trainer.last_epoch = min(config.epochs, last_epoch or config.epochs)
        trainer.warm_start(warm)
        return _finished(trainer.fit(resume), config, trainer.text, trainer.interactions, text_share)


def _finished(
    trained: Trained,
    config: TrainConfig,
    text: Representations | None,
    interactions: Interactions,
    text_share: float | None,
) -> Trained:
    """The result on the CPU, with fused columns and with predicted rows for nodes without
    interactions, if configured.
    """
    final, share = with_fused_columns(config, trained.final, text, interactions, text_share)
    fused = final.dim > trained.final.dim
    final = with_cold_rows(config, final, text, interactions)
    validation, history = trained.validation, trained.history
    if fused and len(interactions.val):
        pairs, is_sample = validation_pairs(config, interactions)
        validation = validate(final, interactions, pairs, with_error=is_sample)
    if share is not None:
        note = History()
        note.add(trained.best_epoch, history["step"].max(), _noted(share))  # type: ignore[arg-type]
        history = pl.concat([history, note.table()])
    final = final.to(torch.device("cpu"))
    return replace(trained, final=final, validation=validation, history=history, text_share=share)


def _compute(
    config: TrainConfig,
    backbone: ClosedFormConfig,
    interactions: Interactions,
    text: Representations | None,
    text_share: float | None,
    listener: Listener | None,
) -> Trained:
    """The vectors of a closed form, with its validation as the only epoch of the history."""
    if not len(interactions.train):
        raise UserError("there are no train interactions", where="train", hint="check the split")
    final = closed_form.fit(backbone, interactions, text, config.dim)
    final, share = with_fused_columns(config, final, text, interactions, text_share)
    final = with_cold_rows(config, final, text, interactions)
    held_out, is_sample = validation_pairs(config, interactions)
    validation, history = validate(final, interactions, held_out, with_error=is_sample), History()
    history.add(1, 0, {f"val/{name}": value for name, value in validation.items()} | _noted(share))
    if listener and validation:
        listener(1, validation)
    return Trained(final.to(torch.device("cpu")), {}, history.table(), 1, 1, validation, text_share=share)


def with_cold_rows(
    config: TrainConfig, final: Representations, text: Representations | None, interactions: Interactions
) -> Representations:
    """`final` with the rows of users and items without train interactions predicted from text, if configured."""
    if text is None or not config.predicts_cold_rows:
        return final
    unit = config.scoring == "cosine"
    if config.cold_start == "neighbours":
        return cold_start.fill_from_neighbours(final, text, interactions, unit, config.cold_loss)
    if config.cold_start == "history":
        return cold_start.fill_from_history(final, text, interactions, unit, config.cold_loss, config.cold_growth)
    return cold_start.fill(final, text, interactions, unit)


def with_fused_columns(
    config: TrainConfig,
    final: Representations,
    text: Representations | None,
    interactions: Interactions,
    share: float | None,
) -> tuple[Representations, float | None]:
    """`final` with the columns of `fuse`, if configured, and the share of the texts; a given `share` is used
    unchanged.
    """
    if config.fuse is None or (text is None and config.fuse.components):
        return final, None
    fused, share = fusing.fuse(config.fuse, final, text, interactions, share)
    if config.scoring == "cosine":
        fused = Representations(functional.normalize(fused.nodes, dim=-1), fused.n_users)
    return fused, share


def _noted(share: float | None) -> dict[str, float]:
    return {} if share is None else {fusing.NAME: share}


def _check_text(text: Representations | None) -> None:
    if text is not None and not text.nodes.isfinite().all():
        hint = "compute them again: `darec run --force embed`"
        raise UserError("some text vectors are not finite", where="train", hint=hint)
