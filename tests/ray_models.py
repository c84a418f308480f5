"""Models for the actors of a Ray cluster that take no memory: what is tested is the engine around them."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from darec.common.errors import UserError
from darec.text.protocol import Answer, Request


class FixedLatency:
    """Takes the same time for every chunk, whatever the machine; notes in a folder what was asked, and by whom."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds

    def load(self) -> None:
        pass

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> list[Answer]:
        with (self.folder / f"{os.getpid()}.begun").open("a") as begun:
            begun.writelines(f"{request.key}\n" for request in requests)
        with (self.folder / f"{os.getpid()}.times").open("a") as times:
            times.write(f"{time.monotonic()}\n")
        time.sleep(self.seconds)
        texts = (
            json.dumps({"profile": f"a profile of {request.messages[-1]['content'][:15]}"}) for request in requests
        )
        return [Answer(request.key, text, "stop", 10, 5) for request, text in zip(requests, texts, strict=True)]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        time.sleep(self.seconds)
        return np.array([[len(text), 0] for text in texts], np.float32)


class Deadly(FixedLatency):
    """Its process dies whenever it is asked for the row `poison`."""

    def generate(self, requests: Sequence[Request], schema: dict[str, Any], max_tokens: int) -> list[Answer]:
        if any(request.key == "poison" for request in requests):
            time.sleep(0.5)  # answers to earlier rows are on their way
            os._exit(1)
        return super().generate(requests, schema, max_tokens)


class Unloadable(FixedLatency):
    """A model that cannot be loaded."""

    def load(self) -> None:
        raise UserError("the model cannot be loaded", where="here", hint="take another")
