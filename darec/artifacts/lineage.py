"""The lineage of an artifact, as far as the store still has it."""

from collections.abc import Iterator

from darec.artifacts.store import Artifact, Store
from darec.common.errors import DarecError


def lineage(store: Store, last: Artifact) -> Iterator[tuple[int, Artifact]]:
    """The artifact and everything it was made from, each with its distance, every artifact before its inputs.

    An artifact that several others read is yielded once for each of them. A branch ends at an artifact that was removed
    or whose manifest cannot be read.
    """
    # There are many more paths than artifacts: each input is looked up, and its manifest read, only once.
    known: dict[tuple[str, str, str], Artifact] = {}

    def walk(artifact: Artifact, depth: int) -> Iterator[tuple[int, Artifact]]:
        yield depth, artifact
        try:
            inputs = artifact.manifest.inputs
        except DarecError:
            return

        for stage, record in inputs.items():
            key = stage, record.key, record.content
            if key not in known:
                known[key] = store.input(stage, record)
            yield from walk(known[key], depth + 1)

    yield from walk(last, 0)


def latest_by_stage(store: Store, last: Artifact) -> dict[str, Artifact]:
    """The artifact of every stage behind `last`, and `last` itself, in the order in which they were made."""
    found: dict[str, tuple[int, Artifact]] = {}
    for depth, artifact in lineage(store, last):
        # An artifact with several readers belongs before the first of them: the greatest distance counts.
        if artifact.stage not in found or found[artifact.stage][0] < depth:
            found[artifact.stage] = depth, artifact
    ordered = sorted(found.items(), key=lambda item: -item[1][0])
    return {stage: artifact for stage, (_, artifact) in ordered}
