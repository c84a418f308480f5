"""vLLM's offline engine in worker processes; beside `penalty` the only file that imports vllm.

On CPU, one single-threaded engine per core is faster than one engine on all cores. Each worker dies with its parent,
and its memory is released when the pool is closed.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal, TypeVar

import numpy as np

from darec.common.errors import DarecError, UserError
from darec.common.processes import die_with_parent
from darec.text.protocol import Answer, Request
from schemas.semantic import EmbedConfig, LLMConfig

Work = TypeVar("Work")
Done = TypeVar("Done")

Arithmetic = Literal["float32", "bfloat16", "float16"]

_CPU_BLOCK = 32  # tokens of a prefix-cache block; vLLM's default of 128 on CPU misses most short prefixes
_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
_CPU_STEP = 1024  # tokens of one forward pass; more only takes memory
_model: "LocalModel"  # the engine of this worker process


@dataclass(frozen=True)
class EngineSettings:
    """Everything that a worker needs to load its engine."""

    folder: str
    runner: Literal["generate", "pooling"]
    dtype: Arithmetic
    max_model_len: int
    batch: int
    kv_cache_mib: int
    seed: int
    frequency_penalty: float
    trust_remote_code: bool
    workers: int
    chunk: int
    gpu: bool
    threads: int = 1
    """CPU threads of one engine, on CPU."""

    @classmethod
    def of(cls, config: LLMConfig, folder: Path) -> "EngineSettings":
        """Settings for generation; zeros in `config` are replaced by the defaults of this machine."""
        return cls(
            folder=str(folder),
            runner="generate",
            dtype=arithmetic(config.dtype),
            max_model_len=config.max_model_len,
            batch=config.batch if not on_gpu() else max(config.batch, 256),
            kv_cache_mib=config.kv_cache_mib,
            seed=config.seed,
            frequency_penalty=config.frequency_penalty,
            trust_remote_code=config.trust_remote_code,
            workers=config.workers or (1 if on_gpu() else cores()),
            chunk=config.chunk or (2048 if on_gpu() else 64),
            gpu=on_gpu(),
        )

    @classmethod
    def pooling(cls, config: EmbedConfig, folder: Path) -> "EngineSettings":
        """Settings for text vectors."""
        return cls(
            folder=str(folder),
            runner="pooling",
            dtype=arithmetic("auto"),
            max_model_len=config.max_tokens,
            batch=config.batch,
            kv_cache_mib=256,
            seed=0,
            frequency_penalty=0.0,
            trust_remote_code=config.trust_remote_code,
            workers=1 if on_gpu() else cores(),
            chunk=config.chunk,
            gpu=on_gpu(),
        )


def on_gpu() -> bool:
    """Whether there is a CUDA device, without initialising CUDA in this process."""
    import torch

    return torch.version.cuda is not None and torch.cuda.device_count() > 0


def cores() -> int:
    """Number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0))


def arithmetic(dtype: Literal["auto"] | Arithmetic) -> Arithmetic:
    """Resolves `auto`: bfloat16 on GPUs and on CPUs with bfloat16 in hardware, float32 on others."""
    if dtype != "auto":
        return dtype
    import torch

    from darec.common.device import bfloat16_helps

    # GPUs are not queried for bfloat16, because that would initialise CUDA in this process.
    return "bfloat16" if on_gpu() or bfloat16_helps(torch.device("cpu")) else "float32"


class OfflineEngine:
    """A pool of engine processes; `with` closes it."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        context = get_context("spawn")
        self._log = NamedTemporaryFile(prefix="darec-llm-", suffix=".log")  # noqa: SIM115 - closed with the pool
        self._pool = ProcessPoolExecutor(
            settings.workers, mp_context=context, initializer=_start, initargs=(settings, self._log.name)
        )

    def __enter__(self) -> "OfflineEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> Iterator[list[Answer]]:
        """Yields answers per chunk, as chunks finish.

        Raises:
            DarecError: a worker died (most often: out of memory).
            UserError: the model cannot be loaded.
        """
        for _, answers in self._spread(_answers, requests, schema, max_tokens):
            yield answers

    def embed(self, texts: Sequence[str]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number of the first text, float32 [rows, d] L2-normalised) per chunk, as chunks finish."""
        yield from self._spread(_vectors, texts)

    def close(self) -> None:
        """Ends the workers and releases their memory."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._log.close()

    def _last_log_line(self) -> str:
        lines = Path(self._log.name).read_text(errors="replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "left no message")

    def _spread(self, function: Callable[..., Done], work: Sequence[Any], *rest: Any) -> Iterator[tuple[int, Done]]:
        """Yields the result of `function` for each chunk. After a failure no further chunk is started, and finished
        ones are yielded.

        Work is taken from `work` when a worker can start it, so its iterator may end early.
        """
        chunks = chunked(work, self._chunk_size(len(work)))
        waiting: dict[Future[Done], int] = {}
        failure: BaseException | None = None

        # One additional chunk is queued, so that no worker idles while results are handled.
        while True:
            try:
                while failure is None and len(waiting) <= self.settings.workers and (chunk := next(chunks, None)):
                    waiting[self._pool.submit(function, chunk[1], *rest)] = chunk[0]
            except BrokenProcessPool as error:
                failure = error

            if not waiting:
                break
            try:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
            except BaseException as interrupt:
                failure, finished = interrupt, {future for future in waiting if future.done()}
                waiting = {future: start for future, start in waiting.items() if future in finished}

            for future in sorted(finished, key=waiting.__getitem__):
                start = waiting.pop(future)
                if future.cancelled():
                    continue
                if (error := future.exception()) is None:
                    yield start, future.result()
                elif failure is None:
                    failure = error
                    for other in waiting:
                        other.cancel()

        if isinstance(failure, BrokenProcessPool):
            raise DarecError(
                f"an LLM engine process died ({self._last_log_line()}); finished rows are kept",
                where=self.settings.folder,
                hint="if memory ran out, lower llm.workers, llm.batch or llm.kv_cache_mib; then run again",
            ) from failure

        if failure is not None:
            raise failure

    def _chunk_size(self, rows: int) -> int:
        """The configured chunk size, or less, so that few rows are distributed over all workers."""
        return max(1, min(self.settings.chunk, -(-rows // self.settings.workers)))


def chunked(work: Sequence[Work], size: int) -> Iterator[tuple[int, list[Work]]]:
    """Yields (number of the first, chunk of work) until `work` ends, each taken on demand."""
    items, start = iter(work), 0
    while chunk := list(islice(items, size)):
        yield start, chunk
        start += len(chunk)


def _start(settings: EngineSettings, log: str) -> None:
    """Initialises a worker: it dies with its parent, and its output goes to a log file."""
    global _model  # noqa: PLW0603
    die_with_parent()
    chatter = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(chatter, 1)
    os.dup2(chatter, 2)
    _model = LocalModel(settings)


def _answers(requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> list[Answer]:
    return _model.generate(requests, schema, max_tokens)


def _vectors(texts: Sequence[str]) -> np.ndarray:
    return _model.embed(texts)


class LocalModel:
    """vLLM's engine in this process, which has only this one. The model is loaded at the first call."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        os.environ.update(_ENVIRONMENT)
        if not settings.gpu:
            # Must be set before torch is loaded: two OpenMP threads on one core are a hundred times slower than one.
            os.environ.update(OMP_NUM_THREADS=str(settings.threads), VLLM_CPU_OMP_THREADS_BIND="nobind")
            os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would override llm.kv_cache_mib
            import torch

            torch.set_num_threads(settings.threads)

    @cached_property
    def _llm(self) -> Any:
        return _load(self.settings)

    def load(self) -> None:
        """Loads the model now. Raises UserError if it cannot be loaded."""
        _ = self._llm

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> list[Answer]:
        """One answer to each request. Raises UserError if the model cannot be loaded or has no chat template."""
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        tokenizer = self._llm.get_tokenizer()
        room = self.settings.max_model_len - max_tokens
        prompts: list[list[int]] = []
        answers: list[Answer] = []
        asked: list[Request] = []

        for request in requests:
            try:
                tokens = _longest_fitting(tokenizer, request, room)
            except Exception as error:  # of the model's chat template
                self._check_chat_template(tokenizer)
                answers.append(Answer(request.key, str(error), "failed", 0, 0))
                continue
            if len(tokens) > room:
                answers.append(Answer(request.key, "", "too_long", len(tokens), 0))
                continue
            asked.append(request)
            prompts.append(tokens)

        common = SamplingParams(
            max_tokens=max_tokens, structured_outputs=StructuredOutputsParams(json=schema), **self._frequency_penalty()
        )
        sampling = [_sampling(common, request) for request in asked]
        outputs = self._llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
        return answers + [_answer(request, output) for request, output in zip(asked, outputs, strict=True)]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, float32 [rows, d]. Raises UserError if the model cannot be loaded."""
        cut = {"truncate_prompt_tokens": self.settings.max_model_len}
        outputs = self._llm.embed(list(texts), tokenization_kwargs=cut, use_tqdm=False)
        vectors = np.asarray([output.outputs.embedding for output in outputs], dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)

    def _check_chat_template(self, tokenizer: Any) -> None:
        """Raises UserError if the model has no chat template that can take a single turn."""
        try:
            tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], add_generation_prompt=True)
        except Exception as error:
            what, hint = f"the model's chat template fails: {error}", "choose an instruction-tuned model for llm.model"
            raise UserError(what, where=self.settings.folder, hint=hint) from error

    def _frequency_penalty(self) -> dict[str, Any]:
        if self.settings.gpu:
            return {"frequency_penalty": self.settings.frequency_penalty}
        from darec.text.penalty import ARGUMENT

        return {"extra_args": {ARGUMENT: self.settings.frequency_penalty}}


def _load(settings: EngineSettings) -> Any:
    from vllm import LLM

    options: dict[str, Any] = {}
    if settings.runner == "generate":
        options["structured_outputs_config"] = {"backend": "xgrammar", "disable_any_whitespace": True}
    if not settings.gpu:
        # Compiling takes minutes at every start and gains little on CPU.
        options |= {"enforce_eager": True, "kv_cache_memory_bytes": settings.kv_cache_mib * 2**20}
        options["max_num_batched_tokens"] = max(_CPU_STEP, settings.max_model_len)
        if settings.runner == "generate":
            # vLLM rewinds the generator of a request with a chunked prompt, which torch does not support on CPU.
            options |= {"block_size": _CPU_BLOCK, "enable_chunked_prefill": False}
            options["logits_processors"] = ["darec.text.penalty:FrequencyPenalty"]

    try:
        return LLM(
            settings.folder,
            runner=settings.runner,
            dtype=settings.dtype,
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.batch,
            seed=settings.seed,
            trust_remote_code=settings.trust_remote_code,
            disable_log_stats=True,
            **options,
        )
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            f"vLLM cannot load the model: {reason[0] if reason else type(error).__name__}",
            where=settings.folder,
            hint="check llm.model, llm.max_model_len and llm.dtype",
        ) from error


def _longest_fitting(tokenizer: Any, request: Request, room: int) -> list[int]:
    """The tokens of the longest version of a prompt with at most `room` tokens, or else of the shortest version."""
    tokens: list[int] = []
    for messages in (request.messages, *request.shorter):
        tokens = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
        if len(tokens) <= room:
            break
    return tokens


def _sampling(common: Any, request: Request) -> Any:
    params = common.clone()
    params.temperature, params.seed = request.temperature, request.seed if request.temperature else None
    return params


def _answer(request: Request, output: Any) -> Answer:
    best = output.outputs[0]
    reason = "stop" if best.finish_reason == "stop" else "length"
    return Answer(request.key, best.text, reason, len(output.prompt_token_ids), len(best.token_ids))
