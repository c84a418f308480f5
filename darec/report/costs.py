"""The cost of the stages, and the information for reproducing the release."""

from collections.abc import Iterable, Sequence

import yaml

from darec.common.errors import DarecError
from darec.report.content import Absent, Cost, Origin
from darec.report.source import Source
from darec.serving.releases import Releases
from schemas.reports import ProfileReport

_REASONS = 2  # number of reasons in the table; more would make its rows very high


def costs(source: Source) -> tuple[Cost, ...]:
    """One line per stage whose artifact exists, in the order of the pipeline."""
    return tuple(_cost(source, stage) for stage in source.artifacts if source.has(stage))


def _cost(source: Source, stage: str) -> Cost:
    manifest = source.artifact(stage).manifest
    report = ProfileReport.model_validate(manifest.report) if "prompt_tokens" in manifest.report else None
    return Cost(
        stage=stage,
        key=manifest.key,
        made=manifest.created,
        why=_shortened(manifest.why),
        rows=manifest.rows,
        seconds=manifest.seconds,
        peak_memory_mb=manifest.peak_memory_mb,
        tokens=report.tokens if report else None,
    )


def _shortened(reasons: Sequence[str]) -> str:
    """The first reasons and the number of others, which are in the section on the configuration."""
    others = [f"{len(reasons) - _REASONS} more"] if len(reasons) > _REASONS else []
    return "; ".join([*reasons[:_REASONS], *others])


def origin(source: Source) -> Origin:
    """The recipe, what changed in it, the code and the libraries."""
    manifest = list(source.artifacts.values())[-1].manifest
    return Origin(
        config=yaml.safe_dump(manifest.settings, sort_keys=False, allow_unicode=True),
        changes=_changes(source),
        code=manifest.code,
        versions=manifest.versions,
    )


def _changes(source: Source) -> tuple[str, ...] | Absent:
    previous = source.previous
    if previous is None or previous.release is None or source.release is None:
        return Absent("there is no previous release")
    try:
        return merged(Releases(source.store.root).diff(previous.release.id, source.release.id).config)
    except DarecError as error:
        return Absent(str(error))


def merged(changes: Iterable[str]) -> tuple[str, ...]:
    """Joins equal changes of several stages: `STAGE.config.FIELD: CHANGE` becomes `FIELD: CHANGE (STAGE, STAGE)`."""
    stages: dict[str, list[str]] = {}
    for line in changes:
        stage, found, change = line.partition(".config.")
        stages.setdefault(change if found else line, []).extend([stage] if found else [])
    return tuple(f"{change} ({', '.join(names)})" if names else change for change, names in stages.items())
