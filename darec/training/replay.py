"""Training steps as a CUDA graph, recorded once and replayed: a step is one launch and not hundreds."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from darec.common.interactions import Batch

Terms = dict[str, Tensor]
Recorder = Callable[[Callable[[], Terms]], tuple[Callable[[], None], Terms]]
"""Records the operations of a function without running them. Returns a function that replays them, and the tensors for
its results.
"""

_EAGER = 3  # number of steps before the recording, which allocate memory and choose kernels

_logger = logging.getLogger(__name__)


def cuda_graph(work: Callable[[], Terms]) -> tuple[Callable[[], None], Terms]:
    """Records `work` as a CUDA graph. Raises RuntimeError if it synchronises with the device or moves data to it.

    After that error, steps can be run directly: PyTorch would stay on the stream of the recording, and its random
    numbers would wait for the recording's end.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    before = generator.clone_state()
    try:
        with torch.cuda.graph(graph):
            terms = work()
    except RuntimeError:
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(before)
        raise
    return graph.replay, terms


class Replay:
    """A step that is recorded after a few calls and then replayed.

    What the host decides is part of a recording: when that changes, it has to be forgotten. Steps that do something
    else than most (`regular` is false) are taken one by one.

    Args:
        step: forward, backward and update for one batch.
        record: records a function as a graph.
    """

    def __init__(self, step: Callable[[Batch], Terms], record: Recorder = cuda_graph) -> None:
        self._step, self._record = step, record
        self._possible, self._taken = True, 0
        self.forget()

    def forget(self) -> None:
        """Makes the next regular step a new recording."""
        self._batch: Batch | None = None
        self._replay: Callable[[], None] | None = None
        self._terms: Terms = {}

    def __call__(self, batch: Batch, regular: bool) -> Terms:
        """The loss terms of a step with `batch`."""
        if regular and self._possible and self._replay is None and self._taken >= _EAGER:
            self._try_to_record(batch)
        if self._replay is None or self._batch is None or not regular:
            self._taken += regular
            return self._step(batch)

        for name in ("users", "items", "negatives"):
            getattr(self._batch, name).copy_(getattr(batch, name))
        self._replay()
        return {name: value.clone() for name, value in self._terms.items()}

    def _try_to_record(self, batch: Batch) -> None:
        own = self._batch = Batch(batch.users.clone(), batch.items.clone(), batch.negatives.clone())
        try:
            self._replay, self._terms = self._record(lambda: self._step(own))
        except RuntimeError as error:
            self._possible = False
            _logger.warning("train: steps cannot be recorded as a CUDA graph and are run directly (%s)", error)
