"""vLLM in the actors of a Ray cluster: one for each GPU or group of cores, on all machines of the cluster.

The number of actors can change. An actor is started wherever a machine has room for it, also on a machine that joins
during the stage, and the rows of an actor that dies are requested again from the others. Prompts, the ledger and the
budget stay in this process, so a row has the same key as with the engine `offline`. Ray is used only for placing actors
and for calls.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from darec.common.errors import DarecError, TransientError, UserError
from darec.common.extras import extra
from darec.common.warnings import warn_once
from darec.text.engine import EngineSettings, LocalModel, chunked, cores
from darec.text.models import ensure, identity, models_root, resolve
from darec.text.protocol import Answer, Request
from schemas.semantic import EmbedConfig, LLMConfig

_AT_ACTOR = 2  # chunks per actor: one is answered and one is queued, so that no actor idles while results are handled
_MOST_DEATHS = 3  # maximum number of deaths of actors with the same rows, or before any was ready
_LOOK = 2.0  # interval between two checks of the machines of the cluster, in seconds
_LONGEST_WAIT = 600.0  # seconds until a warning that no actor is ready; a machine may have to be started
_LOCAL_WAIT = 60.0  # on this machine, where no other machine can join
_TOKEN = "set RAY_AUTH_MODE=token, and copy ~/.ray/auth_token from the machine of `ray start --head`"
_OBJECT_STORE = 256 * 2**20  # bytes of a local Ray's object store; only chunks of text and vectors pass through it


class Model(Protocol):
    """The model of an actor, such as `darec.text.engine.LocalModel`."""

    def load(self) -> None:
        """Loads the model. Raises UserError if it cannot be loaded."""
        ...

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> list[Answer]:
        """One answer to each request."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, float32 [rows, d]."""
        ...


class _Actor:
    """An actor: a process of the cluster with one model."""

    def load(self, make: Callable[[], Model]) -> None:
        self._model = make()
        self._model.load()

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._model, method)(*arguments)


@dataclass
class _Chunk:
    """A chunk of rows that one actor gets at a time."""

    start: int
    rows: list[Any]
    deaths: int = 0
    """Number of actors that died with this chunk."""


class _Chunks:
    """The chunks that no actor has: first those that dead actors had, then those of the work, taken on demand."""

    def __init__(self, work: Sequence[Any], size: int) -> None:
        self._new = (_Chunk(*chunk) for chunk in chunked(work, size))
        self._returned: deque[_Chunk] = deque()
        self._exhausted = False

    @property
    def empty(self) -> bool:
        """Whether no chunk is left, as far as the work has been read."""
        return self._exhausted and not self._returned

    def take(self) -> _Chunk | None:
        """The next chunk; None if there is none."""
        if self._returned:
            return self._returned.popleft()
        chunk = None if self._exhausted else next(self._new, None)
        self._exhausted = chunk is None
        return chunk

    def give_back(self, chunk: _Chunk) -> None:
        """Returns the chunk of an actor that died."""
        self._returned.append(chunk)


class RayEngine:
    """Answers requests, or embeds texts, in actors; `close` ends them, and a Ray that was started for them."""

    def __init__(self, config: LLMConfig | EmbedConfig, make: Callable[[], Model] | None = None) -> None:
        """Connects to the cluster of `config.ray`, or starts Ray on this machine.

        Args:
            config: the model and the cluster.
            make: creates the model inside an actor; None for vLLM.

        Raises:
            UserError: Ray is not installed, or the cluster refuses the token of this machine.
            TransientError: the cluster cannot be reached.
        """
        self.config = config
        self._ray = extra("ray", "ray")
        self._local = False
        self._connected = not self._ray.is_initialized()
        if self._connected:
            self._connect()
        self._gpus = self._gpus_of_an_actor()
        self._make = make or partial(_vllm, config, identity(config.model, config.revision), models_root().resolve())
        self._starting: dict[Any, Any] = {}
        """Actors that are loading their model, by the call that ends when it is loaded."""
        self._load: Counter[Any] = Counter()
        """Number of chunks of each ready actor."""
        self._busy: dict[Any, tuple[Any, _Chunk]] = {}
        """The actor and the chunk of each active call."""
        self._looked = 0.0
        self._failed_starts = 0

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> Iterator[list[Answer]]:
        """Answers chunk by chunk, as chunks finish.

        Raises:
            DarecError: several actors die with the same rows, or before they are ready.
            TransientError: the cluster has no room.
            UserError: the model cannot be loaded.
        """
        for _, answers in self._spread("generate", requests, schema, max_tokens):
            yield answers

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
        """(number of the first text, float32 [rows, d] L2-normalised) chunk by chunk, as chunks finish."""
        yield from self._spread("embed", texts)

    def close(self) -> None:
        """Ends the actors. An existing cluster is not changed."""
        for actor in [*self._starting.values(), *self._load]:
            self._ray.kill(actor)
        if self._connected:
            self._ray.shutdown()

    def _connect(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        address = self.config.ray.address or os.environ.get("RAY_ADDRESS") or "local"
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        self._local = address == "local"
        if self._local:
            options |= {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": _OBJECT_STORE}

        try:
            self._ray.init(address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            hint = "start it with `ray start --head`, or correct llm.ray.address, embed.ray.address or RAY_ADDRESS; "
            hint += f"if it asks for a token, {_TOKEN}"
            raise TransientError(f"the Ray cluster cannot be reached: {error}", where=address, hint=hint) from error
        except self._ray.exceptions.RayError as error:
            raise UserError(f"the Ray cluster refuses this machine: {error}", where=address, hint=_TOKEN) from error

    def _machines(self) -> list[dict[str, float]]:
        """The resources of each machine of the cluster."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _gpus_of_an_actor(self) -> int:
        if self.config.ray.gpus is not None:
            return self.config.ray.gpus
        return int(any(machine.get("GPU", 0) >= 1 for machine in self._machines()))

    def _room(self) -> int:
        """The number of actors that fit on the machines."""
        rooms = []
        for machine in self._machines():
            room = machine.get("CPU", 0) // self.config.ray.cpus
            rooms.append(min(room, machine.get("GPU", 0) // self._gpus) if self._gpus else room)
        return int(sum(rooms))

    def _grow(self, most: int) -> None:
        """Starts further actors if there is room, at most `most` in total."""
        if time.monotonic() - self._looked < _LOOK:
            return

        self._looked = time.monotonic()
        # One actor is requested in any case: it makes an autoscaling cluster start a machine.
        wanted = min(most, self.config.ray.actors or max(1, self._room()))
        for _ in range(wanted - len(self._starting) - len(self._load)):
            actor_class = self._ray.remote(num_cpus=self.config.ray.cpus, num_gpus=self._gpus)(_Actor)
            actor = actor_class.remote()
            self._starting[actor.load.remote(self._make)] = actor

    def _spread(self, method: str, work: Sequence[Any], *rest: Any) -> Iterator[tuple[int, Any]]:
        """Yields the models' result for each chunk. After a failure no further chunk is started, and started ones are
        yielded.

        Work is taken from `work` when an actor can start it, so its iterator may end early.
        """
        if not len(work):
            return

        begun = time.monotonic()
        chunks = _Chunks(work, self._chunk_size(len(work)))
        failure: BaseException | None = None
        # Calls left by a caller that stopped early are dropped.
        self._busy.clear()
        self._load = Counter(dict.fromkeys(self._load, 0))

        while True:
            if failure is None:
                self._hand_out(method, chunks, *rest)
            if not self._busy and (failure is not None or chunks.empty):
                break

            try:
                self._grow(most=len(work) if failure is None else 0)
                finished = self._wait(begun)
            except BaseException as error:
                # After an interrupt or without a machine, started chunks are not awaited.
                failure = error
                finished = self._ended([*self._busy])
                self._busy = {call: held for call, held in self._busy.items() if call in finished}

            for call in sorted(finished, key=self._order):
                try:
                    if call in self._starting:
                        self._ready(call)
                    elif (given := self._result(call, chunks)) is not None:
                        yield given
                except Exception as error:
                    failure = failure or error

        if failure is not None:
            raise failure

    def _hand_out(self, method: str, chunks: _Chunks, *rest: Any) -> None:
        """Starts chunks until every ready actor has enough or no chunk is left."""
        while (actor := self._free_actor()) is not None and (chunk := chunks.take()) is not None:
            self._busy[actor.call.remote(method, chunk.rows, *rest)] = actor, chunk
            self._load[actor] += 1

    def _chunk_size(self, rows: int) -> int:
        """The configured chunk size, or less, so that few rows are distributed over all actors."""
        size = self.config.chunk or (2048 if self._gpus else 64)
        return max(1, min(size, -(-rows // (self.config.ray.actors or max(1, self._room())))))

    def _free_actor(self) -> Any:
        """The ready actor with the fewest chunks, or None if each has enough."""
        actor = min(self._load, key=self._load.__getitem__, default=None)
        return actor if actor is not None and self._load[actor] < _AT_ACTOR else None

    def _wait(self, begun: float) -> list[Any]:
        """The calls that have ended, after at most `_LOOK` seconds.

        Raises:
            TransientError: no actor could be placed for a long time.
        """
        calls = [*self._starting, *self._busy]
        if not calls:
            time.sleep(_LOOK)  # wait until there is room for an actor again
            return []

        first, _ = self._ray.wait(calls, timeout=_LOOK)
        if not first and not self._load and time.monotonic() - begun > (_LOCAL_WAIT if self._local else _LONGEST_WAIT):
            if self._room():
                warn_once("no Ray actor is ready yet: its model is being loaded, or other jobs hold the cluster")
                return []
            what = f"no machine of the Ray cluster has {self.config.ray.cpus} CPUs and {self._gpus} GPUs for an actor"
            kind = UserError if self._local else TransientError
            raise kind(what, hint="lower cpus or gpus under llm.ray or embed.ray, or add a machine to the cluster")

        return self._ended(calls)

    def _ended(self, calls: list[Any]) -> list[Any]:
        return self._ray.wait(calls, num_returns=len(calls), timeout=0)[0] if calls else []

    def _order(self, call: Any) -> int:
        return self._busy[call][1].start if call in self._busy else -1

    def _ready(self, call: Any) -> None:
        """Records that an actor has loaded its model, or failed to."""
        actor = self._starting.pop(call)
        try:
            self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            self._ray.kill(actor)
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_DEATHS:
                raise self._died(f"{_MOST_DEATHS} Ray actors died before their model was loaded", error) from error
        else:
            self._load[actor] = 0
            self._failed_starts = 0

    def _result(self, call: Any, chunks: _Chunks) -> tuple[int, Any] | None:
        """An actor's result for its chunk; None if the actor died, and then another one gets the chunk."""
        actor, chunk = self._busy.pop(call)
        try:
            result = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            self._load[actor] -= 1
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            # It was killed, it ran out of memory, or its machine failed; the result may be lost.
            self._load.pop(actor, None)
            chunk.deaths += 1
            if chunk.deaths >= _MOST_DEATHS:
                raise self._died(f"{_MOST_DEATHS} Ray actors died over the same rows", error) from error
            warn_once("a Ray actor died; its rows are requested again")
            chunks.give_back(chunk)
            return None

        self._load[actor] -= 1
        return chunk.start, result

    def _died(self, what: str, error: Exception) -> DarecError:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        hint = "if memory ran out, lower llm.batch or llm.kv_cache_mib, or raise llm.ray.cpus; then run again"
        return DarecError(f"{what} ({reason}); finished rows are kept", where=self.config.model, hint=hint)


def _vllm(config: LLMConfig | EmbedConfig, wanted: str, root: Path) -> LocalModel:
    """Creates the model in the actor, from files on the actor's machine.

    Args:
        config: settings of the model.
        wanted: its identity, which is part of the keys of all rows.
        root: the folder of models on the calling machine, for clusters that share it.
    """
    if root.is_dir():
        os.environ["DAREC_MODELS"] = str(root)
    ensure(config.model)
    folder = resolve(config.model, config.revision)
    if identity(config.model, config.revision) != wanted:
        hint = "copy the same folder to every machine of the Ray cluster"
        raise UserError(
            "this machine has another model of the same name", where=f"{os.uname().nodename}:{folder}", hint=hint
        )

    make = EngineSettings.of if isinstance(config, LLMConfig) else EngineSettings.pooling
    return LocalModel(replace(make(config, folder), threads=config.ray.cpus))  # pyright: ignore[reportArgumentType]
