"""Training steps as a CUDA graph, recorded once and replayed: a step is one launch and not hundreds."""

import gc
import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from darec.common.interactions import Batch


@dataclass(frozen=True)
class Terms:
    """The loss terms of a step, in one tensor, so that one operation copies or adds all of them."""

    names: tuple[str, ...]
    values: Tensor
    """float32 [terms], without gradients."""


Recorder = Callable[[Callable[[], Terms]], tuple[Callable[[], None], Terms]]
"""Records the operations of a function without running them. Returns a function that replays them, and the terms whose
tensor has the results.
"""

_EAGER = 3  # number of steps before the first recording, which allocate memory and choose kernels

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
        with _garbage_collected_before(), torch.cuda.graph(graph):
            terms = work()
    except RuntimeError:
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(before)
        raise
    return graph.replay, terms


@contextmanager
def _garbage_collected_before() -> Iterator[None]:
    """Frees unreachable objects first and none inside. Among them may be the graph of an earlier model; to free it
    during a recording makes the recording fail when it is replayed.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@dataclass(frozen=True)
class _Recording:
    """A recorded step: the batch it reads, the function that replays it, and its loss terms."""

    batch: Batch
    replay: Callable[[], None]
    terms: Terms

    def run(self, batch: Batch) -> Terms:
        for name in ("users", "items", "negatives"):
            getattr(self.batch, name).copy_(getattr(batch, name))
        self.replay()
        return Terms(self.terms.names, self.terms.values.clone())


class Replay:
    """Steps that are recorded after a few calls and then replayed, one recording per kind of step.

    Steps of one kind have the same operations. What the host decides is part of a recording: when that changes, all
    recordings have to be forgotten. Kinds that cannot be recorded are run directly.

    Args:
        step: forward, backward and update for one batch.
        record: records a function as a graph.
    """

    def __init__(self, step: Callable[[Batch], Terms], record: Recorder = cuda_graph) -> None:
        self._step, self._record = step, record
        self._direct: Counter[Hashable] = Counter()
        self._refused: set[Hashable] = set()
        self._recordings: dict[Hashable, _Recording] = {}

    def forget(self) -> None:
        """Makes the next step of each kind a new recording."""
        self._recordings = {}

    def __call__(self, batch: Batch, kind: Hashable) -> Terms:
        """The loss terms of a step of this kind with `batch`."""
        ready = self._direct.total() >= _EAGER and self._direct[kind] and kind not in self._refused
        if ready and kind not in self._recordings:
            self._try_to_record(batch, kind)

        recording = self._recordings.get(kind)
        if recording is not None:
            return recording.run(batch)
        self._direct[kind] += 1
        return self._step(batch)

    def _try_to_record(self, batch: Batch, kind: Hashable) -> None:
        own = Batch(batch.users.clone(), batch.items.clone(), batch.negatives.clone())
        try:
            self._recordings[kind] = _Recording(own, *self._record(lambda: self._step(own)))
        except RuntimeError as error:
            self._refused.add(kind)
            _logger.info("train: steps cannot be recorded as a CUDA graph and are run directly (%s)", error)
