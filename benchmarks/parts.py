"""DaRec's shared and specific parts for a sample of nodes, before and after training."""

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from benchmarks.runs import MODEL, Run
from darec.alignment.darec import DaRec
from darec.artifacts.store import Artifact
from darec.common.errors import UserError
from darec.training.trainer import Trainer
from schemas.alignment import DaRecConfig

_SAMPLE = 1500  # number of sampled nodes

_NAMES = ("cf shared", "cf specific", "text shared", "text specific")

Parts = dict[str, np.ndarray]
"""`cf shared`, `cf specific`, `text shared`, `text specific` -> rows of unit length [n, width].

Parts without columns are left out.
"""


def before_and_after(run: Run, artifact: Artifact) -> tuple[Parts, Parts]:
    """The parts at the first step of the run and in its result.

    Raises:
        UserError: the run's configuration has no DaRec objective.
    """
    if not any(isinstance(each, DaRecConfig) for each in run.entry.config.alignment):
        raise UserError(f"{run.entry.label} has no DaRec parts", where="plot", hint="name an alignment with darec")

    with torch.random.fork_rng([]):
        torch.manual_seed(run.entry.config.seed)
        trainer = Trainer(run.entry.config, run.data.interactions, run.data.text, None, torch.device("cpu"))
        aligned = torch.cat([torch.arange(first, end) for first, end in _objective(trainer).sides])
        nodes = aligned[torch.randperm(len(aligned))[:_SAMPLE]]

    before = _parts(trainer, nodes)
    state = load_file(artifact.path / MODEL)
    trainer.model.load_state_dict({name: value for name, value in state.items() if not name.startswith("final.")})
    return before, _parts(trainer, nodes)


def _objective(trainer: Trainer) -> DaRec:
    return next(each for each in trainer.model.objectives if isinstance(each, DaRec))


@torch.no_grad()
def _parts(trainer: Trainer, nodes: torch.Tensor) -> Parts:
    objective = _objective(trainer)
    cf, text = trainer.model.represent().nodes[nodes], objective.text.nodes[nodes]
    rows = zip(_NAMES, (*objective.cf_parts(cf), *objective.text_parts(text)), strict=True)
    return {name: functional.normalize(value, dim=-1).numpy() for name, value in rows if value.shape[1]}
