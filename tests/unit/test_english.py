"""The words of code and documents: terms of the field, and none of those that this project once made up."""

import re
from pathlib import Path

REPLACEMENTS = {
    r"so-manieth": "every N steps",
    r"mend(?:s|ed|ing)?": "fix, repair, hint",
    r"anew": "again, rebuilt",
    r"passing reason": "transient error",
    r"growing pauses": "exponential backoff",
    r"told from|tell from": "negatives for the contrastive loss",
    r"told apart": "selected by, identified by",
    r"at right angles": "orthogonal",
    r"wanted in proportion": "exponent applied to the scores",
    r"grows in a line": "linear warm-up",
    r"learns nothing|is not taught|are not taught": "frozen, student",
    r"(?:one|a) (?:row|point|number|file|line) a (?:row|user|item|pair|node|side|method|run|step)": "one per ...",
    r"crash the silent": "mark stalled runs as crashed",
    r"decided upon": "gated",
    r"(?:first|over|at most|at least|after|before) so many|so many (?:first|steps|epochs|evaluations|days)": "N",
    r"perhaps the": "which may be",
    r"what became of": "outcome, result",
    r"laid over": "overrides, merged over",
    r"go(?:es|ne)? on from": "continues from",
    r"cannot be had": "cannot be started, is not available",
    r"beyond chance": "significantly",
    r"night's test": "the test of the run",
    r"(?:process|file|account|environment|seed|study|row|rows) of (?:its|their) own": "separate",
    r"taught by|teaches": "student of, teacher",
    r"so (?:far )?unexamined": "not profiled yet",
    r"in the place of": "instead of",
    r"caught up": "made up for",
    r"everybody": "all users",
    r"whoever": "the caller, users",
    r"(?:objects?|rows?) a (?:second|line)": "one ... per ...",
    r"under way|at work on": "active, running",
    r"(?:is|are|be|was|were) made again": "rebuilt, generated again",
    r"tonight|night's|that night": "this run, of the run",
    r"me(?:e)?ts? the gate": "is checked by the gate",
    r"what (?:they|dislikes|a refit|text|alignment) buys?|buy nothing": "effect",
    r"no (?:JSON|Parquet|text|HTML|chat|row) (?:object|file|page|turn|ledger)": "not a ...",
    r"came through": "was completed",
    r"power cut": "power failure",
    r"bit by bit": "exactly, lazily",
    r"passed over": "skipped, ignored",
    r"if need be": "if it does not exist",
    r"sound rows?": "intact rows",
    r"half made": "incomplete",
    r"brings? (?:torch|polars|numpy)": "imports",
    r"who is alone": "exclusive access",
    r"contestants?": "candidates",
    r"in no order": "in no particular order",
    r"two looks": "two checks",
    r"(?:holds?|takes?) no passwords?": "contains no password",
    r"no login": "not authenticated",
    r"how far before": "distance",
    r"what it leaves out": "missing parts",
    r"grows from row to row": "increases with every row",
    r"used as it is|is used as they are": "unchanged",
    r"in (?:every|each) (?:so-many-th|n-th) step": "every N steps",
    r"about how many": "approximate number of",
    r"the one that is left": "the replaced release",
    r"lists (?:that are )?there are replaced": "existing lists are replaced",
}
"""A pattern, and what the documentation of PyTorch or Polars says instead."""

PATTERN = re.compile(rf"(?<![\w-])(?:{'|'.join(REPLACEMENTS)})(?!\w)", re.IGNORECASE)
FOLDERS = ("schemas", "darec", "stages", "benchmarks", "pipelines", "prompts", "configs", "docker", "docs", "tests")
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".toml", ".j2", ".sh", ".ipynb"}


def sources() -> list[Path]:
    files = [path for folder in FOLDERS for path in Path(folder).rglob("*") if path.suffix in SUFFIXES]
    return sorted([*files, *Path().glob("*.md"), *Path().glob("*.yaml"), *Path().glob("*.yml")])


def test_no_word_that_the_field_does_not_use():
    found = [
        f"{path}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for path in sources()
        if path != Path("tests/unit/test_english.py")
        for text in [path.read_text()]
        for match in PATTERN.finditer(text)
    ]
    assert not found, "\n".join(found)


def test_the_check_reads_the_project():
    names = {str(path) for path in sources()}
    assert {"README.md", "schemas/training.py", "docs/method.md", "pipelines/cli/__init__.py"} <= names
    assert PATTERN.search("Write each so-manieth step") and not PATTERN.search("recommend, amended")
