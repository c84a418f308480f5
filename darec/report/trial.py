"""The result of trying a prompt, as one HTML file and as lines of text."""

from collections.abc import Iterator, Sequence

from darec.report.render import render_page
from darec.text.trial import Side, Trial, meaning


def trial_page(trial: Trial) -> str:
    """The page: both prompts and their profiles, row by row."""
    return render_page("trial.html.j2", trial=trial, lines=list(summary(trial)), meaning=meaning)


def summary(trial: Trial) -> Iterator[str]:
    """A summary of the trial in a few lines."""
    if trial.asks_llm:
        yield f"{trial.asked:,} prompts were sent to the LLM in {trial.seconds:.1f} s; the other answers were known"
    old, new = [row.old for row in trial.rows], [row.new for row in trial.rows]
    for name, sides in (("old", old), ("new", new)):
        known = [side for side in sides if side.text is not None]
        if not known:
            yield f"{name}: no row is known; add --ask-old to request answers to the old prompt too"
            continue
        fallbacks = sum(side.cause != "" for side in known)
        tokens = f", {_mean(known, 'prompt_tokens')} prompt tokens per row"
        written = f" and {_mean(known, 'output_tokens')} output tokens, {fallbacks} from metadata"
        yield f"{name}: {len(known)} of {len(sides)} rows{tokens}{written if trial.asks_llm else ''}"

    both = [(a.text, b.text) for a, b in zip(old, new, strict=True) if a.text is not None and b.text is not None]
    if both:
        yield f"the text changes in {sum(a != b for a, b in both)} of {len(both)} rows"
    yield from trial.notes


def _mean(sides: Sequence[Side], field: str) -> str:
    counts = [value for side in sides if (value := getattr(side, field)) is not None]
    return f"{sum(counts) / len(counts):.1f}" if counts else "unknown"
