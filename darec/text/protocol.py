"""The interface of LLM engines."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar, overload

Message = dict[str, str]
Conversation = tuple[Message, ...]
Name = TypeVar("Name")
FinishReason = Literal["stop", "length", "too_long", "filtered", "refused", "rejected", "failed"]


@dataclass(frozen=True)
class Request:
    """The request for one row."""

    key: str
    messages: Conversation
    seed: int
    temperature: float
    shorter: tuple[Conversation, ...] = ()
    """Shorter versions of `messages`, longest first, if `messages` do not fit the model."""


class LazyRequests(Sequence[Request], Generic[Name]):
    """Requests that are made each time they are taken, so that the prompts of a whole table are never in memory.

    Args:
        names: what identifies each row, such as its ledger key.
        make: the request of a row.
    """

    def __init__(self, names: Sequence[Name], make: Callable[[Name], Request]) -> None:
        self._names, self._make = names, make

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> Request: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Request]: ...
    def __getitem__(self, index: int | slice) -> Request | Sequence[Request]:
        if isinstance(index, slice):
            return LazyRequests(self._names[index], self._make)
        return self._make(self._names[index])


@dataclass(frozen=True)
class Answer:
    """The answer to the request of the same key.

    `finish_reason` says how it ended: `stop` and `length` as in the OpenAI protocol; `too_long`: no version of the
    prompt fits the model; `filtered`: a content filter removed it; `refused`: the model declined; `rejected`: the
    server accepts other rows but not this one; `failed`: the engine answers other rows but not this one. `text` is the
    answer, or for the last two the server's message.
    """

    key: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    output_tokens: int
    server: str = ""
    """The server that gave it, if there are several."""


class Engine(Protocol):
    """Answers requests under one JSON schema and yields answers as they finish, in any order."""

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> Iterator[list[Answer]]:
        """Every request gets one answer, whether usable or not. Finished answers are yielded before an error is raised.

        An engine takes a request from `requests` only when it can start it: the iterator ends early if the run's token
        limit is reached.
        """
        ...

    def close(self) -> None:
        """Frees the resources of the engine."""
        ...
