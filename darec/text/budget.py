"""The LLM budget of a run: tokens and cost are counted, and no row is requested after a limit is reached.

A limit applies to one run with all of its stages. Open rows count with the mean tokens of the answered rows, and before
the first answer with a cautious estimate from their length and `max_tokens`. So do answers of a server that reports no
tokens.
The limit can therefore be exceeded only by the estimation error of one chunk per worker of the offline engine, or of
the open requests of a server.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import overload

from darec.common.errors import LimitError
from darec.common.warnings import warn_once
from darec.text.answers import NEVER_SAMPLED
from darec.text.protocol import Answer, Request
from schemas.semantic import LLMConfig

CHARS_PER_TOKEN = 4
"""Of English text, roughly: the plan's estimate until real counts are known."""
_BYTES_PER_TOKEN = 2.5
"""A limit must hold before real counts are known, so this is less than what text of most languages has (English 4 to
5, Chinese and Japanese 3), and leaves room for the chat template.
"""


@dataclass
class Spending:
    """The number of tokens that one run has used."""

    prompt_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and output tokens together."""
        return self.prompt_tokens + self.output_tokens

    def add(self, prompt_tokens: int, output_tokens: int) -> None:
        """Counts further tokens."""
        self.prompt_tokens += prompt_tokens
        self.output_tokens += output_tokens


_run: ContextVar[Spending | None] = ContextVar("spending", default=None)


@contextmanager
def one_run(before: Spending | None = None) -> Iterator[Spending]:
    """All requests in the block count as one run; a nested block belongs to the outer one.

    Args:
        before: what the run has used before, on another machine.
    """
    if (outer := _run.get()) is not None:
        yield outer
        return
    token = _run.set(spending := before or Spending())
    try:
        yield spending
    finally:
        _run.reset(token)


def price(llm: LLMConfig, prompt_tokens: float, output_tokens: float) -> float:
    """The cost of these tokens at the prices of the recipe; with batches all of them count as rows of a batch."""
    full = (llm.price_per_million_input * prompt_tokens + llm.price_per_million_output * output_tokens) / 1e6
    return full * (llm.batch_price_share if llm.batch_api else 1)


def has_price(llm: LLMConfig) -> bool:
    """Whether the recipe has prices."""
    return llm.price_per_million_input > 0 or llm.price_per_million_output > 0


class Budget:
    """Counts the tokens of the answers of one stage, and decides whether another row may be requested."""

    def __init__(self, llm: LLMConfig, max_tokens: int) -> None:
        self.llm, self.max_tokens = llm, max_tokens
        self.spending = _run.get() or Spending()
        self.reached = False
        """Whether a row was held back."""
        self._limits = llm.max_tokens_per_run, llm.max_cost_per_run
        self._open: dict[str, tuple[int, int]] = {}  # expected prompt and output tokens of each open row
        self._answered, self._prompt_tokens, self._output_tokens = 0, 0, 0

    def ration(self, requests: Sequence[Request]) -> "Rationed":
        """The requests that the limits allow."""
        return Rationed(requests, self)

    def take(self, request: Request) -> bool:
        """Whether the row may be requested now; if so, it counts as open until it is answered."""
        if self.reached or not self._affords(request):
            self.reached = True
            return False
        prompt, output = self._expected(request)
        self._open[request.key] = round(prompt), round(output)
        return True

    def allows_more(self, requests: "Rationed") -> bool:
        """Whether some of the held-back requests may be sent now, because answers took fewer tokens than estimated."""
        if self.reached and len(requests) and self._affords(requests[0]):
            self.reached = False
            return True
        return False

    def answered(self, answer: Answer) -> None:
        """Counts an answer."""
        expected = self._open.pop(answer.key, None)
        tokens = answer.prompt_tokens, answer.output_tokens
        if any(tokens):
            self._answered += 1
            self._prompt_tokens += answer.prompt_tokens
            self._output_tokens += answer.output_tokens
        elif expected and any(self._limits) and answer.finish_reason not in NEVER_SAMPLED:
            warn_once("the LLM server reports no numbers of tokens (`usage`): the limits of the run count estimates")
            tokens = expected
        self.spending.add(*tokens)

    def stop(self, left: int) -> None:
        """Raises LimitError if rows were held back.

        Args:
            left: how many rows have no answer yet.
        """
        if not self.reached:
            return

        llm, spent = self.llm, self.spending
        what = f"the LLM has used {spent.tokens:,} tokens in this run"
        if has_price(llm):
            what += f" (price {price(llm, spent.prompt_tokens, spent.output_tokens):,.4g})"
        names = [name for name in ("max_tokens_per_run", "max_cost_per_run") if getattr(llm, name)]
        limits = " and ".join(f"llm.{name} {getattr(llm, name):,}" for name in names)
        raise LimitError(
            f"{what}, and another row would exceed the limit; {left:,} rows are left",
            where=limits,
            hint="all answers are kept: the next run continues from there",
        )

    def _affords(self, request: Request) -> bool:
        begun = self._open or self.spending.tokens
        if not any(self._limits) or not begun:  # one row is always requested, so that every run makes progress
            return True

        prompt, output = self._expected(request)
        rows = len(self._open) + 1
        prompt_tokens = self.spending.prompt_tokens + rows * prompt
        output_tokens = self.spending.output_tokens + rows * output
        most_tokens, most_cost = self._limits
        tokens_fit = not most_tokens or prompt_tokens + output_tokens <= most_tokens

        return tokens_fit and (not most_cost or price(self.llm, prompt_tokens, output_tokens) <= most_cost)

    def _expected(self, request: Request) -> tuple[float, float]:
        """Prompt and output tokens of one row: the mean of the answered rows, or a cautious estimate."""
        if self._answered:
            return self._prompt_tokens / self._answered, self._output_tokens / self._answered
        size = sum(len(message["content"].encode()) for message in request.messages)
        return size / _BYTES_PER_TOKEN, self.max_tokens


def characters(messages: Sequence[dict[str, str]]) -> int:
    """Number of characters of a conversation."""
    return sum(len(message["content"]) for message in messages)


class Rationed(Sequence[Request]):
    """An iterator over requests that ends early when the budget is used up; an engine takes a request when it can start
    it.
    """

    def __init__(self, requests: Sequence[Request], budget: Budget) -> None:
        self._requests, self._budget, self._taken = requests, budget, 0

    def __len__(self) -> int:
        return len(self._requests)

    @overload
    def __getitem__(self, index: int) -> Request: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Request]: ...
    def __getitem__(self, index: int | slice) -> Request | Sequence[Request]:
        return self._requests[index]

    def __iter__(self) -> Iterator[Request]:
        for request in self._requests:
            if not self._budget.take(request):
                return
            self._taken += 1
            yield request

    def left(self) -> Sequence[Request]:
        """The requests that were not taken."""
        return self._requests[self._taken :]
