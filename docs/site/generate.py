"""Pages that are made when the site is built (configuration from the schema, the notebook, the changelog), and line
breaks in tables.
"""

import html
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from schemas.bench import BenchRecipe, TuneRecipe
from schemas.recipe import Recipe

_TEXT = 20  # minimum mean length of the cells of a table of text

_INTRODUCTION = """# Configuration

All fields of a recipe, with type, default and description. An empty recipe trains LightGCN
with BPR and DaRec on MovieLens-100K; the default recipe, `configs/movielens-100k.yaml`, sets other training values.
`darec config show` prints yours with all defaults; `--set SECTION.FIELD=VALUE` changes one value for one run.
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    files.append(File.generated(config, "configuration.md", content=_configuration()))
    files.append(File.generated(config, "changelog.md", content=Path("CHANGELOG.md").read_text()))
    files.append(File.generated(config, "notebook.md", content=_notebook(Path("docs/quickstart.ipynb"))))
    return files


def on_page_content(content: str, **_: Any) -> str:
    """Makes tables fit a phone: lines break within paths and names, not around ±, and rows may be shown as blocks."""
    cells = re.compile(r"<td.*?</td>", re.DOTALL)
    code = re.compile(r"<code>.*?</code>", re.DOTALL)
    breaks = partial(re.sub, r"(?<=[a-z0-9][/_(=:])(?=[\w{\[])|(?<=[a-z0-9]\.)(?=\w)(?!(py|md|ya?ml|json)\b)", "<wbr>")
    content = re.sub(r"<table>.*?</table>", lambda table: _with_titles(table[0]), content, flags=re.DOTALL)
    content = cells.sub(lambda cell: re.sub(r" ± |(?<=\(p) ", _unbroken, cell[0]), content)
    return cells.sub(lambda cell: code.sub(lambda found: breaks(found[0]), cell[0]), content)


def _unbroken(blanks: re.Match[str]) -> str:
    return blanks[0].replace(" ", "&nbsp;")


def _with_titles(table: str) -> str:
    """A table of three or more columns of text, with the title of its column at every cell: a phone shows each row as a
    block of cells below their titles. Tables of numbers stay as they are.
    """
    titles = [_plain(title) for title in re.findall(r"<th\b.*?>(.*?)</th>", table, re.DOTALL)]
    cells = [_plain(cell) for cell in re.findall(r"<td\b.*?>(.*?)</td>", table, re.DOTALL)]
    if len(titles) < 3 or sum(map(len, cells)) < _TEXT * len(cells):
        return table

    def titled(row: re.Match[str]) -> str:
        left = iter(titles)
        return re.sub("<td", lambda _: f'<td data-title="{next(left)}"', row[0])

    return re.sub(r"<tr>.*?</tr>", titled, table, flags=re.DOTALL).replace("<table>", "<table data-rows>", 1)


def _plain(content: str) -> str:
    return re.sub(r"<.*?>", "", content).replace('"', "&quot;")


def _notebook(path: Path) -> str:
    cells = json.loads(path.read_text())["cells"]
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return "\n\n".join(text if kind == "markdown" else f"```python\n{text}\n```" for kind, text in sources)


def _configuration() -> str:
    """One heading per section of the recipe, and one for each kind of section that a field may hold."""
    pages = [_INTRODUCTION]
    schema = Recipe.model_json_schema()
    for name, field in schema["properties"].items():
        section = _resolve(field, schema)
        # The field repeats what its section is for; it adds what null means.
        _, null, meaning = _text(field).partition(" null: ")
        pages.append(f"## {name}\n\n{_text(section)}{null}{meaning}\n\n{_fields(section, schema)}")
        pages += _sections(name, section, schema)
    for title, kind in (("Benchmarks", BenchRecipe), ("Searches", TuneRecipe)):
        schema = kind.model_json_schema()
        pages.append(f"## {title}\n\n{_text(schema)}\n\n{_fields(schema, schema)}")
        pages += _sections(title, schema, schema)
    return "\n\n".join(pages)


def _sections(name: str, section: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    inner = _inner(section, schema)
    return [f"### {name}: {title}\n\n{_text(kind)}\n\n{_fields(kind, schema)}" for title, kind in inner]


def _resolve(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The section that a field of the recipe holds, whether or not it may be null."""
    return schema["$defs"][_references(field)[0]]


def _references(value: Any) -> list[str]:
    """Names of the sections that `value` refers to, in order."""
    return list(dict.fromkeys(re.findall(r"#/\$defs/(\w+)", json.dumps(value))))


def _inner(section: dict[str, Any], schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """All sections below `section`, depth first, by their names in a recipe."""
    found: dict[str, dict[str, Any]] = {}
    waiting = _references(section.get("properties", {}))
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found[name] = schema["$defs"][name]
            waiting = _references(found[name].get("properties", {})) + waiting
    return [(_title(name, kind), kind) for name, kind in found.items() if "properties" in kind]


def _title(name: str, kind: dict[str, Any]) -> str:
    tags = (kind["properties"].get(tag, {}).get("const") for tag in ("name", "kind"))
    return next(filter(None, tags), name.removesuffix("Config"))


def _text(described: dict[str, Any]) -> str:
    """The description as HTML, with code where it has backticks."""
    text = html.escape(" ".join(described.get("description", "").split()), quote=False)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)


def _fields(section: dict[str, Any], schema: dict[str, Any]) -> str:
    rows = ['<dl class="field">']
    for name, field in section.get("properties", {}).items():
        # The default of a nested section is that of its fields, which are listed by themselves.
        plain = "default" in field and "$ref" not in field
        default = f", default <code>{html.escape(_value(field['default']))}</code>" if plain else ""
        needed = ", required" if name in section.get("required", ()) else ""
        kind = html.escape(_kind(field, schema))
        rows.append(f"<dt><code>{name}</code>: {kind}{default}{needed}</dt>\n<dd>{_text(field)}</dd>")
    return "\n".join([*rows, "</dl>"])


def _value(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _kind(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """The type in the terms of YAML, with its bounds."""
    if "const" in field:
        return json.dumps(field["const"])
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    if options := field.get("anyOf") or field.get("oneOf"):
        return " | ".join(_kind(option, schema) for option in options)
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        return _title(name, schema["$defs"][name]) if "properties" in schema["$defs"][name] else name
    if field.get("type") == "array":
        return f"list of {_kind(field['items'], schema)}" if "items" in field else "list"
    return f"{field.get('type', 'any value')}{_bounds(field)}"


def _bounds(field: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    parts = [f"{sign} {field[name]:,}" for name, sign in signs.items() if name in field]
    return f" ({', '.join(parts)})" if parts else ""
