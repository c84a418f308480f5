"""The frequency penalty on CPU, where vLLM fills matrices of batch x vocabulary for it: a sixth of all time."""

from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.logits_processor.interface import BatchUpdate, LogitsProcessor

if TYPE_CHECKING:
    from vllm.config import VllmConfig

ARGUMENT = "darec_frequency_penalty"  # of SamplingParams.extra_args


class FrequencyPenalty(LogitsProcessor):
    """Takes the penalty off a token's logit for each time the answer holds it: only those logits are touched."""

    def __init__(self, vllm_config: "VllmConfig", device: torch.device, is_pin_memory: bool) -> None:
        self.device = device
        self.rows: dict[int, tuple[float, list[int]]] = {}  # row of the batch -> its penalty, its answer so far

    def is_argmax_invariant(self) -> bool:
        """No: a repeated token may lose its first place."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows requests as they enter, leave and move in the batch."""
        process_dict_updates(self.rows, batch_update, _penalty_and_answer)

    def apply(self, logits: Tensor) -> Tensor:
        """[batch, vocabulary], changed in place."""
        tokens = torch.tensor(list(chain.from_iterable(answer for _, answer in self.rows.values())), dtype=torch.int64)
        if not len(tokens):
            return logits
        lengths = torch.tensor([len(answer) for _, answer in self.rows.values()])
        rows = torch.tensor(list(self.rows)).repeat_interleave(lengths)
        penalties = torch.tensor([-penalty for penalty, _ in self.rows.values()]).repeat_interleave(lengths)
        where = rows.to(self.device), tokens.to(self.device)
        return logits.index_put_(where, penalties.to(logits), accumulate=True)


def _penalty_and_answer(
    params: SamplingParams, prompt: list[int] | None, answer: list[int]
) -> tuple[float, list[int]] | None:
    penalty = (params.extra_args or {}).get(ARGUMENT, 0.0)
    return (penalty, answer) if penalty else None
