"""The training loop: epochs of steps, early stopping on validation, and checkpoints."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from math import cos, isfinite, pi
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from darec.common.column_split import UNSPLIT, ColumnSplit
from darec.common.errors import UserError
from darec.common.interactions import Batch, Interactions, Pairs, Representations
from darec.common.progress import Progress, Silent
from darec.evaluation.protocol import rank, score
from darec.evaluation.ranking import largest_score
from darec.model.propagation import Adjacency
from darec.training import checkpoint
from darec.training.history import History
from darec.training.memory import keep_freed_memory
from darec.training.model import Recommender
from darec.training.replay import Replay, Terms
from darec.training.sampling import Sampler
from darec.training.sizing import validation_pairs
from schemas.section import hashed
from schemas.steps import step_settings
from schemas.training import TrainConfig

_logger = logging.getLogger(__name__)

Listener = Callable[[int, dict[str, float]], None]
"""Called with (epoch, validation metrics) after each evaluation. It may raise to stop training."""

_K = 20  # the cutoff of validation; the best epoch has the best Recall@20


class DivergedError(UserError):
    """The loss, the parameters or the scores are no longer finite."""


@dataclass(frozen=True)
class Trained:
    """A trained model: the state of its best epoch."""

    final: Representations
    state: dict[str, Tensor]
    """The model's parameters and buffers."""
    history: pl.DataFrame
    best_epoch: int
    epochs: int
    """Number of epochs that were run."""
    validation: dict[str, float]
    """Validation metrics of the best epoch, with the text columns, if any."""
    batch_size: int = 0
    """Number of interactions per step, which grows with the data."""
    text_share: float | None = None
    """The share of the text columns (`train.fuse`); None without text columns."""


class Trainer:
    """State and loop of one training run. Use `darec.training.run.train` to start one."""

    def __init__(
        self,
        config: TrainConfig,
        interactions: Interactions,
        text: Representations | None,
        adjacency: Adjacency | None,
        device: torch.device,
        split: ColumnSplit = UNSPLIT,
        *,
        fixed: bool | None = None,
    ) -> None:
        """`fixed`: steps have fixed shapes and do not synchronise with the device; by default on a GPU, which otherwise
        waits for the next launch.
        """
        keep_freed_memory()
        self.config, self.device, self.split = config, device, split
        self.progress: Progress = Silent()
        self.listener: Listener | None = None
        self.interactions = interactions.to(device)

        size = (interactions.n_users, interactions.n_items)
        if not config.needs_graph:
            adjacency = Adjacency.without_edges(*size)
        adjacency = adjacency or Adjacency.normalised(interactions.train, *size)
        self.text = text = text.to(device) if text else None

        self.settings = step_settings(config, len(interactions.train))
        self.batch_size, self.learning_rate = self.settings.batch_size, self.settings.learning_rate
        self.validated, self.is_sample = validation_pairs(config, self.interactions)
        self._tell_sizes()

        fixed = device.type == "cuda" if fixed is None else fixed
        dislikes = config.dislikes, config.dislike_share
        self.sampler = Sampler(self.interactions, self.batch_size, *dislikes, fixed=fixed)
        self.model = Recommender(config, self.interactions, adjacency.to(device), text, split, fixed=fixed)
        self.model.to(device)
        if config.compile:
            _compile_projections(self.model)

        replays = config.cuda_graphs and device.type == "cuda" and split.size == 1
        self.replay = Replay(self._advance) if replays else None
        rate = torch.tensor(self.learning_rate, device=device) if replays else self.learning_rate
        self.optimizer = torch.optim.Adam(  # its weight decay adds 2 l2 w to the gradient, the gradient of l2 |w|^2
            self.model.parameters(), lr=rate, weight_decay=2 * self.settings.l2, fused=True, capturable=replays
        )

        self.history = History()
        self.last_epoch = config.epochs
        self.epoch = self.step = self.best_epoch = self.bad_evaluations = 0
        self.best: dict[str, Tensor] = {}
        self.validation: dict[str, float] = {}

    def _tell_sizes(self) -> None:
        """Logs the settings that were changed because of the size of the data."""
        config, pairs = self.config, len(self.interactions.train)
        if self.batch_size != config.batch_size or self.settings.l2 != config.l2:
            _logger.info(
                "train: batches of %s, a learning rate of %.2g and an l2 of %.2g for %s interactions "
                "(train.batch_growth)",
                f"{self.batch_size:,}",
                self.learning_rate,
                self.settings.l2,
                f"{pairs:,}",
            )
        if self.is_sample:
            users = len(torch.unique(self.validated.users))
            _logger.info("train: validation ranks for %s users (train.validation_users)", f"{users:,}")

    def warm_start(self, warm: Tensor | None) -> None:
        """Initialises the id embeddings from `warm`, [N, dim], except rows of NaN."""
        if warm is None or self.model.embedding is None:
            return
        warm = warm[:, self.split.mine(self.config.dim)].to(self.device)
        with torch.no_grad():
            self.model.embedding.copy_(torch.where(warm.isfinite(), warm, self.model.embedding))

    def fit(self, resume: Path | None) -> Trained:
        """Trains to the end, from the checkpoint `resume` if it exists."""
        self._restore(resume)
        self.progress.start("train", self.last_epoch, "epochs")
        self.progress.advance(self.epoch)
        while not self.finished:
            self.run_epoch()
            if self.epoch % self.config.eval_every == 0 or self.epoch == self.last_epoch:
                self._evaluate()
            self.progress.advance(1, " ".join(f"{name} {value:.4f}" for name, value in self.validation.items()))
            if resume and (self.epoch % self.config.checkpoint_every == 0 or self.finished):
                checkpoint.save_columns(self._state(), resume, self.split)
        return self._result()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or early stopping applies."""
        config = self.config
        retrying = self.bad_evaluations < config.patience or self.epoch < config.min_epochs
        return self.epoch >= self.last_epoch or not retrying

    def run_epoch(self) -> None:
        """Trains on every train pair once."""
        self.model.train()
        if self.model.start_epoch(self.epoch) and self.replay:
            self.replay.forget()
        sums: dict[tuple[str, ...], Tensor] = {}  # steps of different kinds have different terms
        logged: list[tuple[int, Terms]] = []
        for batch in self.sampler.epoch():
            terms = self._step(batch)
            before = sums.get(terms.names)
            sums[terms.names] = terms.values if before is None else before + terms.values
            if self.config.log_steps and self.step % self.config.log_steps == 0:
                logged.append((self.step, terms))
        self.epoch += 1

        if logged:  # read at the end of the epoch: reading a value in each step would synchronise with the GPU
            names = [(step, f"step/{name}") for step, terms in logged for name in terms.names]
            values = torch.cat([terms.values for _, terms in logged]).tolist()
            rows = ((step, name, value) for (step, name), value in zip(names, values, strict=True))
            self.history.extend(self.epoch, rows)
        self._check_and_log(sums)

    def _step(self, batch: Batch) -> Terms:
        rate = learning_rate(self.config, self.learning_rate, self.step, len(self.sampler))
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # the tensor that a recorded step reads
            else:
                group["lr"] = rate
        kind = self.model.start_step(self.step)
        terms = self.replay(batch, kind) if self.replay else self._advance(batch)
        self.step += 1
        return terms

    def _advance(self, batch: Batch) -> Terms:
        """Forward and backward pass, and update."""
        with self._autocast():
            terms: dict[str, Tensor] = self.model(batch, self.sampler)
        if not terms:  # without a ranking loss a step may have no terms, if a sample has nothing to compare
            return Terms((), torch.zeros(0, device=self.device))
        values = torch.stack(list(terms.values()))
        self._descend(values.sum())
        return Terms(tuple(terms), values.detach())

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        named = list(self.model.named_parameters())
        self.split.average(each.grad for name, each in named if each.grad is not None and not self._is_divided(name))
        if self.config.clip_norm:
            norm = self._norm({name: each.grad for name, each in named if each.grad is not None})
            torch.nn.utils.clip_grads_with_norm_([each for _, each in named], self.config.clip_norm, norm)
        self.optimizer.step()

    def _norm(self, tensors: dict[str, Tensor]) -> Tensor:
        """The norm over all tensors, including the columns of other processes."""
        if self.split.parts == 1:
            return torch.nn.utils.get_total_norm(tensors.values())
        split = [value for name, value in tensors.items() if self._is_divided(name)]
        common = [value for name, value in tensors.items() if not self._is_divided(name)]
        lengths = [torch.nn.utils.get_total_norm(part).to(self.device) for part in (split, common)]
        return (self.split.total(lengths[0].square()) + lengths[1].square()).sqrt()

    def _is_divided(self, name: str) -> bool:
        """Whether other processes hold other columns of this parameter."""
        return self.split.parts > 1 and name == checkpoint.SPLIT

    def _autocast(self) -> torch.autocast | nullcontext[None]:
        half = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()

    def _check_and_log(self, sums: dict[tuple[str, ...], Tensor]) -> None:
        """Checks losses and parameters once per epoch: a NaN in a step makes the sum of the epoch NaN.

        Args:
            sums: the sums of the terms of all steps with these names.
        """
        length = self._norm(dict(self.model.named_parameters()))
        *values, norm = torch.cat([*sums.values(), length[None]]).tolist()  # one synchronisation for all values
        means: dict[str, float] = {}
        for name, value in zip((name for names in sums for name in names), values, strict=True):
            means[f"loss/{name}"] = means.get(f"loss/{name}", 0.0) + value / len(self.sampler)
        self._check_finite(**means, **{"norm of the parameters": norm})
        rate = learning_rate(self.config, self.learning_rate, self.step - 1, len(self.sampler))
        self.history.add(self.epoch, self.step, means | {"learning_rate": rate})

    def _check_finite(self, **values: float) -> None:
        """Raises DivergedError unless all are finite."""
        bad = [f"{name} = {value}" for name, value in values.items() if not isfinite(value)]
        if bad:
            facts = f"{', '.join(bad)}; learning_rate {self.learning_rate:g}"
            hint = "lower train.learning_rate or set train.clip_norm"
            raise DivergedError(f"training diverged at epoch {self.epoch} ({facts})", where="train", hint=hint)

    def _evaluate(self) -> None:
        if not len(self.interactions.val):
            self._keep_best({})
            return
        values = self._validate(self._represent())
        self.history.add(self.epoch, self.step, {f"val/{name}": value for name, value in values.items()})
        if not self.best or values[f"recall@{_K}"] > self.validation[f"recall@{_K}"]:
            self._keep_best(values)
        elif self.epoch % self.config.eval_every == 0:  # a longer training has no evaluation after another last epoch
            self.bad_evaluations += 1
        if self.listener:
            self.listener(self.epoch, values)

    def _validate(self, final: Representations) -> dict[str, float]:
        """Validates in the first process, which gathers all columns for it."""
        nodes = self.split.first_only(final.nodes)
        if nodes is None:
            return self.split.shared({})
        whole = Representations(nodes, final.n_users)
        return self.split.shared(validate(whole, self.interactions, self.validated, with_error=self.is_sample))

    def _keep_best(self, values: dict[str, float]) -> None:
        self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.best_epoch, self.bad_evaluations, self.validation = self.epoch, 0, values

    def _state(self) -> checkpoint.State:
        counters = ("epoch", "step", "best_epoch", "bad_evaluations", "validation", "best")
        return {name: getattr(self, name) for name in counters} | {
            "settings": hashed(self.config),
            "history": self.history.state(),
            "model": self.model.state_dict(),
            "optimizer": checkpoint.optimizer_state(self.optimizer),
            "random": checkpoint.random_state(self.device),
        }

    def _restore(self, path: Path | None) -> None:
        state = checkpoint.load_columns(path, self.split) if path else None
        if state is None or state.get("settings") != hashed(self.config):  # a default may have changed since
            return
        for name in ("epoch", "step", "best_epoch", "bad_evaluations", "validation"):
            setattr(self, name, state[name])
        self.best = {name: value.to(self.device) for name, value in state["best"].items()}
        self.history = History.of_state(state["history"])
        self.model.load_state_dict(state["model"])
        checkpoint.restore_optimizer(self.optimizer, state["optimizer"])
        checkpoint.restore_random(state["random"], self.device)

    def _result(self) -> Trained:
        self.model.load_state_dict(self.best)
        state, history = {name: value.cpu() for name, value in self.best.items()}, self.history.table()
        final = self._represent()
        return Trained(final, state, history, self.best_epoch, self.epoch, self.validation, self.batch_size)

    def _represent(self) -> Representations:
        """The model's final representations. Raises DivergedError if their scores are not finite."""
        final = self.model.represent()
        self._check_finite(scores=largest_score(final))
        return final


def validate(
    final: Representations, interactions: Interactions, held_out: Pairs | None = None, *, with_error: bool = False
) -> dict[str, float]:
    """Recall and NDCG on `held_out`, by default all validation pairs; empty if there are none.

    `with_error` adds the standard error of Recall, for a sample of users.
    """
    held_out = interactions.val if held_out is None else held_out
    if not len(held_out):
        return {}
    ranking = rank(final, interactions.train, held_out, _K)
    scores = score(ranking, held_out, interactions.n_items, (_K,), ("recall", "ndcg"))
    if not with_error:
        return scores.means()
    recalls = scores.values[f"recall@{_K}"]
    return scores.means() | {f"recall@{_K} standard error": float(recalls.std() / len(recalls) ** 0.5)}


def _compile_projections(model: torch.nn.Module) -> None:
    """Compiles all multi-layer projections in place; sparse products and sampling would only cause graph breaks."""
    for part in model.modules():
        if isinstance(part, torch.nn.Sequential):
            part.compile(dynamic=True)


def learning_rate(config: TrainConfig, base: float, step: int, steps_an_epoch: int) -> float:
    """The rate of step `step` (the first is 0): `base` times a linear warm-up times the schedule."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    falling = 0.5 * (1 + cos(pi * step / (config.epochs * steps_an_epoch))) if config.schedule == "cosine" else 1.0
    return base * warm * falling
