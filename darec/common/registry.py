"""From a section of the configuration to the class that implements it: one way for everything that is pluggable."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

Made = TypeVar("Made")
Factory = TypeVar("Factory", bound=Callable[..., Any])


class Registry(Generic[Made]):
    """The implementations of one kind of thing (backbones, objectives, losses), by their configuration class."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._factories: dict[type[BaseModel], Callable[..., Made]] = {}

    def register(self, section: type[BaseModel]) -> Callable[[Factory], Factory]:
        """Class decorator: this is what `section` configures. Its constructor takes the section first."""

        def decorate(factory: Factory) -> Factory:
            self._factories[section] = factory
            return factory

        return decorate

    @property
    def sections(self) -> set[type[BaseModel]]:
        """The configuration classes that have an implementation."""
        return set(self._factories)

    def build(self, section: BaseModel, *arguments: Any) -> Made:
        """The thing that `section` configures.

        Raises:
            LookupError: no class was registered for it, which is a mistake in the code: its module is not imported.
        """
        if type(section) not in self._factories:
            raise LookupError(f"no {self.kind} is registered for {type(section).__name__}")
        return self._factories[type(section)](section, *arguments)
