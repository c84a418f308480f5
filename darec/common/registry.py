"""Maps a section or a name of the configuration to its implementation, for everything that is pluggable."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

Made = TypeVar("Made")
Factory = TypeVar("Factory", bound=Callable[..., Any])


class Registry(Generic[Made]):
    """The implementations of one interface, by configuration class or by name.

    Backbones, closed-form models, objectives and losses have a configuration class each; file formats, metrics and
    engines have a name.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._factories: dict[type[BaseModel] | str, Callable[..., Made]] = {}

    def register(self, key: type[BaseModel] | str) -> Callable[[Factory], Factory]:
        """Decorator: this class or function implements `key`. The implementation of a configuration class takes a
        section as its first argument.
        """

        def decorate(factory: Factory) -> Factory:
            self._factories[key] = factory
            return factory

        return decorate

    def __iter__(self) -> Iterator[Any]:
        """The configuration classes or names that have an implementation, in the order of registration."""
        return iter(self._factories)

    def build(self, section: BaseModel, *arguments: Any) -> Made:
        """The object that `section` configures. Raises LookupError like `make`."""
        return self.make(type(section), section, *arguments)

    def make(self, key: type[BaseModel] | str, *arguments: Any) -> Made:
        """Calls the implementation of `key` with `arguments`.

        Raises:
            LookupError: no implementation is registered. This is a bug: its module is not imported.
        """
        if key not in self._factories:
            raise LookupError(f"no {self.kind} is registered for {key if isinstance(key, str) else key.__name__}")
        return self._factories[key](*arguments)
