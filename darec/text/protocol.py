"""What every LLM engine takes and gives."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Message = dict[str, str]
FinishReason = Literal["stop", "length", "too_long"]


@dataclass(frozen=True)
class Request:
    """One row of work."""

    key: str
    messages: tuple[Message, ...]
    seed: int
    temperature: float


@dataclass(frozen=True)
class Answer:
    """The answer to the request of the same key; `too_long` means the prompt did not fit the model."""

    key: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    output_tokens: int


class Engine(Protocol):
    """Answers requests under one JSON schema, giving finished chunks as they finish, in any order."""

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> Iterator[list[Answer]]:
        """Every request gets one answer, whether usable or not."""
        ...

    def close(self) -> None:
        """Gives back what the engine holds."""
        ...
