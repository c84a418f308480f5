"""Strict YAML for recipes: ambiguous values, duplicate keys and exponential aliases are refused.

PyYAML follows YAML 1.1, where `010` is 8, `1:30` is 90 and `yes` is true; YAML 1.2 and most other readers disagree.
Here a plain scalar is null, true, false, a decimal number or text, and a scalar that YAML 1.1 reads differently is an
error.
"""

import re
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

DEEPEST = 32
"""Maximum nesting of lists and tables: more than any recipe needs, and far less than Python's recursion limit."""
_LARGEST = 100_000  # maximum number of values after expanding aliases

_BOOL, _INT, _FLOAT, _NULL, _TEXT, _MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null", "str", "merge")
)
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_REAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class StrictYAMLError(ValueError):
    """The text is not valid YAML, or not in the subset for recipes; the message names the line."""


def parse(text: str) -> Any:
    """The value of a YAML document: tables, lists, text, numbers, booleans and null; None if it is empty.

    Raises:
        StrictYAMLError: naming line and reason.
    """
    try:
        return yaml.load(text, _Loader)  # a subclass of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(part for part in (error.context, error.problem) if part)
        raise StrictYAMLError(f"line {mark.line + 1}: {reason}" if mark else reason) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number with thousands of digits
        raise StrictYAMLError(str(error)) from error


def dump(value: Any) -> str:
    """`value` as YAML that `parse` reads back unchanged."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _core_tag(word: str, tag: str) -> str:
    """The tag of a plain scalar, given its tag in YAML 1.1: scalars that YAML 1.2 reads as numbers are numbers."""
    if tag in (_BOOL, _NULL, _MERGE):
        return _TEXT if tag == _BOOL and word.lower() not in ("true", "false") else tag
    if _DECIMAL.fullmatch(word):
        return _INT
    return _FLOAT if _REAL.fullmatch(word) else _TEXT


class _Loader(yaml.SafeLoader):
    """Composes nodes as SafeLoader does, with the restrictions in the module's docstring."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, tuple[int, int]] = {}
        """id of a composed node -> number of values in it and levels below it, with aliases expanded."""

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise _refused(f"the tag {event.tag} is not allowed", event.start_mark)

        self._depth += 1
        if self._depth > DEEPEST:
            raise _refused(f"lists and tables are nested more than {DEEPEST} deep", event.start_mark)

        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None:
            self._measure(node, event)
        return node

    def compose_scalar_node(self, anchor: Any) -> ScalarNode:
        node = super().compose_scalar_node(anchor)
        if node.style is None:  # neither quoted nor a block
            tag = _core_tag(node.value, node.tag)
            if tag == _TEXT and node.tag in (_BOOL, _INT, _FLOAT):
                hint = "true or false" if node.tag == _BOOL else "a decimal number without leading zeros"
                problem = f"readers of YAML disagree about {_short(node.value)}: write {hint}, or put it in quotes"
                raise _refused(problem, node.start_mark)
            node.tag = tag

        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        merged: dict[str, tuple[Node, Node]] = {}
        own: dict[str, tuple[Node, Node]] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode) or key.tag not in (_TEXT, _MERGE):
                name = _short(key.value) if isinstance(key, ScalarNode) else "of a list or table"
                raise _refused(f"the key {name} is not text: put it in quotes", key.start_mark)

            line = key.start_mark.line + 1
            if key.value in lines:
                places = f"lines {lines[key.value]} and {line}"
                raise _refused(f"{_short(key.value)} is given twice, in {places}", key.start_mark)
            lines[key.value] = line

            # `<<` is resolved here: PyYAML gives precedence to the wrong value if a merged table itself has a `<<`.
            if key.tag == _MERGE:
                for source in value.value if isinstance(value, SequenceNode) else [value]:
                    if not isinstance(source, MappingNode):
                        raise _refused("<< needs a table, or a list of tables", value.start_mark)
                    for pair in source.value:
                        merged.setdefault(pair[0].value, pair)
            else:
                own[key.value] = (key, value)

        node.value = list((merged | own).values())
        return node

    def _measure(self, node: Node, event: yaml.Event) -> None:
        """Refuses aliases that expand without bound: each is counted as a copy of its target."""
        if isinstance(event, yaml.AliasEvent):
            size, levels = self._sizes.get(id(node), (_LARGEST, 0))  # absent: the alias is inside its own anchor
        else:
            children = [child for pair in node.value for child in pair] if isinstance(node, MappingNode) else node.value
            inner = [self._sizes[id(child)] for child in children] if not isinstance(node, ScalarNode) else []
            size, levels = 1 + sum(size for size, _ in inner), 1 + max((levels for _, levels in inner), default=0)

        self._sizes[id(node)] = size, levels
        if size >= _LARGEST or self._depth + levels > DEEPEST:
            raise _refused("there are too many values, or aliases that repeat each other", event.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that `_Loader` would not read back as text, and escapes control characters."""

    def represent_str(self, data: str) -> ScalarNode:
        return self.represent_scalar(_TEXT, data, style=None if data.isprintable() else '"')

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:
        tag = super().resolve(kind, value, implicit)
        return _core_tag(value, tag) if kind is ScalarNode and tag == _TEXT and implicit[0] else tag

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


_Dumper.add_representer(str, _Dumper.represent_str)


def _refused(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
