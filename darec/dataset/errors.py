"""An error about data that a setting of the recipe resolves."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from darec.common.errors import UserError


class AnswerableError(UserError):
    """Data that cannot be read with this recipe, and the settings with which it can."""

    def __init__(
        self, what: str, *, where: str = "", hint: str = "", settings: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self.settings = settings
        """Section of the recipe -> field -> value."""
        super().__init__(what, where=where, hint=hint)

    def __reduce__(self) -> tuple[Callable[[str], "AnswerableError"], tuple[str]]:
        """The arguments to create it in another process."""
        return partial(AnswerableError, where=self.where, hint=self.hint, settings=self.settings), (self.what,)
