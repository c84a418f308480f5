"""Prompt templates: loading, validation before rows are rendered, and cleaning of the text that is inserted as data."""

import traceback
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import TemplateSyntaxError, meta, nodes

from darec.common.errors import UserError
from darec.text.identity import read_prompt
from darec.text.protocol import Message
from darec.text.sandbox import RANDOM, Outcome, Trial, environment, render_blocks, try_out
from schemas import columns as c

TITLE_CHARS = 120
DESCRIPTION_CHARS = 400
ATTRIBUTE_CHARS = 80
ATTRIBUTES_SHOWN = 8
ITEMS_SHOWN = 100
"""Maximum number of items of a user's history in a prompt (`profile_users.items`)."""
PROFILE_CHARS = 400
"""Maximum number of characters of an item's profile in a user's prompt."""
LONGEST_PROFILE = 4000
"""Maximum number of characters of a profile (`max_chars`)."""
_SHORTEST_CUT = 16  # minimum bytes of a text that is shortened for a model with a small context

_REFUSED: dict[Outcome, str] = {
    "slow": "takes more than a second to render",
    "memory": "takes more than 128 MiB to render",
    "recursion": "recurses, or is nested, without limit",
    "long": "renders to more than 200,000 characters",
    "crash": "ends the process that renders it",
}
_ROLES = ("system", "user", "assistant")

# Chat templates mark turns with <...> or [INST]-like tags; in data such signs become look-alikes that no tokenizer
# takes for a mark, nor makes one by normalising wide and small forms. Double quotes delimit data, so data has none.
_LOOKALIKES = {
    **dict.fromkeys("<＜﹤", "‹"),
    **dict.fromkeys(">＞﹥", "›"),
    **dict.fromkeys("|｜", "/"),
    **dict.fromkeys('"＂“”`', "'"),
}
_TAG = r"\[(/?[A-Z_]{2,})\]"
_CONTROL = r"[\p{Cc}\p{Cf}\p{Co}\p{Zl}\p{Zp}]"


def as_data(text: pl.Expr, limit: int) -> pl.Expr:
    """External text as one line of at most `limit` characters, without control characters and chat marks."""
    short = text.str.slice(0, 8 * limit).str.replace_all(_CONTROL, " ")
    marked = short.str.replace_many(_LOOKALIKES).str.replace_all(_TAG, "($1)")
    line = marked.str.replace_all(r"\s+", " ").str.strip_chars()
    cut = line.str.slice(0, limit - 1) + "…"
    return pl.when(line.str.len_chars() > limit).then(cut).otherwise(line)


def attributes_as_data(column: str = c.ATTRIBUTES) -> pl.Expr:
    """The list of name / value attributes, cleaned; empty values are left out."""
    element = pl.element()
    clean = pl.struct(
        name=as_data(element.struct.field("name"), ATTRIBUTE_CHARS),
        value=as_data(element.struct.field("value"), ATTRIBUTE_CHARS),
    )
    return pl.col(column).list.head(ATTRIBUTES_SHOWN).list.eval(clean)


def longest_values(variables: tuple[str, ...]) -> dict[str, Any]:
    """Values of the variables with the maximum length of any row."""
    entries = range(ATTRIBUTES_SHOWN)
    attributes = [{"name": _words(f"name {n}", 80), "value": _words(f"value {n}", ATTRIBUTE_CHARS)} for n in entries]
    shown = [
        {"title": _words(f"title {n}", TITLE_CHARS), "rating": 4.5, "profile": _words(f"profile {n}", PROFILE_CHARS)}
        for n in range(ITEMS_SHOWN)
    ]
    values = {
        c.TITLE: _words("title", TITLE_CHARS),
        c.DESCRIPTION: _words("description", DESCRIPTION_CHARS),
        c.ATTRIBUTES: attributes,
        c.PROFILE: _words("profile", LONGEST_PROFILE),
        "items": shown,
        "disliked": [{name: value for name, value in item.items() if name != "rating"} for item in shown],
    }
    return {name: values.get(name) for name in variables}


def _words(text: str, chars: int) -> str:
    return (f"{text} " * chars)[:chars]


@cache
def _try_out(source: str, variables: tuple[str, ...]) -> Trial:
    return try_out(source, longest_values(variables))


def with_less_data(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields versions of `values` with decreasing length, for prompts that do not fit the model.

    The longest texts are shortened first, by bytes, which predict tokens better than characters. When all texts have
    only a few words, lists are halved. Names of attributes are not shortened, because templates compare them.
    """
    limit, entries = _longest_text(values), _longest_list(values)
    while limit > _SHORTEST_CUT:
        limit = max(limit * 4 // 5, _SHORTEST_CUT)
        yield _cut(values, limit, entries)
    while entries > 1:
        entries //= 2
        yield _cut(values, limit, entries)


def _longest_text(value: Any) -> int:
    """Length in bytes of the longest text in nested values."""
    if isinstance(value, str):
        return len(value.encode())
    return max(map(_longest_text, _parts(value)), default=0)


def _longest_list(value: Any) -> int:
    """Length of the longest list in nested values."""
    own = len(value) if isinstance(value, list) else 0
    return max(own, max(map(_longest_list, _parts(value)), default=0))


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return value if isinstance(value, list) else []


def _cut(value: Any, limit: int, entries: int) -> Any:
    """Nested values with at most `limit` bytes in a text and `entries` in a list."""
    if isinstance(value, str) and len(value.encode()) > limit:
        return value.encode()[:limit].decode(errors="ignore").rstrip() + "…"
    if isinstance(value, Mapping):
        return {name: part if name == "name" else _cut(part, limit, entries) for name, part in value.items()}
    if isinstance(value, list):
        return [_cut(part, limit, entries) for part in value[:entries]]
    return value


class Prompt:
    """A Jinja template in a sandbox, with the blocks it must define.

    Raises:
        UserError: it is missing, not a template, lacks a block, uses an unknown variable, takes more than a second or
        128 MiB to render, or is not deterministic.
    """

    def __init__(self, path: str | Path, variables: tuple[str, ...], blocks: tuple[str, ...]) -> None:
        self.path, self.variables = Path(path), variables
        source = read_prompt(self.path)
        trial = _try_out(source, variables)
        if trial.outcome in _REFUSED:
            words = f" ({trial.last_words})" if trial.last_words else ""
            raise UserError(f"the prompt {_REFUSED[trial.outcome]}{words}", where=str(path), hint="make it simpler")

        sandbox = environment()
        try:
            tree = sandbox.parse(source, filename=str(self.path))
            self._check_names(tree)
            self._template = sandbox.from_string(source)
        except TemplateSyntaxError as error:
            raise UserError(
                f"the prompt is not a Jinja template: {error.message}",
                where=f"{path}:{error.lineno}",
                hint="fix that line",
            ) from error

        missing = [name for name in blocks if name not in self._template.blocks]
        if missing:
            hint = f"add {{% block {missing[0]} %}} ... {{% endblock %}}"
            raise UserError(f"the prompt has no block {' and '.join(missing)}", where=str(path), hint=hint)

        self._check_outside(tree)
        # The trial ran in another process: a template that is not deterministic differs here.
        for block, text in trial.texts.items():
            if self.render(block, longest_values(variables)) != text:
                what = f"block {block!r} of the prompt gives another text each time it is rendered"
                hint = "print values, and not methods, sets or objects"
                raise UserError(what, where=str(path), hint=hint)

    def _check_names(self, tree: nodes.Template) -> None:
        for node in tree.find_all((nodes.Filter, nodes.Name)):
            if node.name in RANDOM and node.name not in self.variables:
                what = f"{node.name!r} gives another text each time, so that every run has other keys"
                raise UserError(what, where=f"{self.path}:{node.lineno}", hint="leave it out")
        for unknown in sorted(meta.find_undeclared_variables(tree) - set(self.variables)):
            line = next((node.lineno for node in tree.find_all(nodes.Name) if node.name == unknown), 1)
            raise UserError(
                f"unknown variable {unknown!r}",
                where=f"{self.path}:{line}",
                hint=f"known are: {', '.join(self.variables)}",
            )

    def _check_outside(self, tree: nodes.Template) -> None:
        """Raises UserError for text outside of the blocks, of which nothing is made."""
        for output in tree.body:
            for node in output.nodes if isinstance(output, nodes.Output) else ():
                text = node.data.strip() if isinstance(node, nodes.TemplateData) else "an expression"
                if text:
                    what = f"{text[:40]!r} is outside of the blocks, so nobody reads it"
                    hint = f"move it into a block, such as {{% block {next(iter(self._template.blocks))} %}}"
                    raise UserError(what, where=str(self.path), hint=hint)

    def render(self, block: str, values: Mapping[str, Any]) -> str:
        """The text of `block`. Raises UserError as `_render`."""
        return self._render(values, [block])[block]

    def _render(self, values: Mapping[str, Any], blocks: Iterable[str]) -> dict[str, str]:
        """The texts of some blocks.

        Raises:
            UserError: the template uses a missing value, or an operation that the sandbox forbids.
        """
        try:
            return render_blocks(self._template, values, blocks)
        except Exception as error:  # a template can raise any exception
            reason = str(error) or type(error).__name__
            where, hint = f"{self.path}:{self._line(error)}", f"known are: {', '.join(self.variables)}"
            raise UserError(f"the prompt fails: {reason}", where=where, hint=hint) from error

    def _line(self, error: Exception) -> int:
        """The line of the template at which rendering failed."""
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<template>"]
        return self._template.get_corresponding_lineno(frames[-1].lineno or 1) if frames else 1

    def messages(self, values: Mapping[str, Any]) -> tuple[Message, ...]:
        """All blocks as chat messages in the file's order; a block's role is its name up to the first underscore."""
        texts = self._render(values, self._template.blocks)
        roles = ((name.split("_")[0], text) for name, text in texts.items())
        return tuple({"role": role, "content": text} for role, text in roles if text or role == "user")

    def check_roles(self) -> None:
        """Raises UserError if a block is not a chat turn, or the last one is not the user's."""
        names = list(self._template.blocks)
        strange = [name for name in names if name.split("_")[0] not in _ROLES]
        if strange or names[-1] != "user":
            what = f"block {strange[0]!r} is not a chat turn" if strange else "the last block is not `user`"
            raise UserError(what, where=str(self.path), hint=f"name blocks {', '.join(_ROLES)}, or {_ROLES[1]}_1, ...")


def chat_prompt(path: str | Path, variables: tuple[str, ...]) -> Prompt:
    """A prompt of chat turns: `system`, examples as `user_1`, `assistant_1`, ..., and last `user`."""
    prompt = Prompt(path, variables, ("system", "user"))
    prompt.check_roles()
    return prompt
