"""The subject and the file name of a report, without the imports that a report needs."""

from collections.abc import Mapping

from darec.artifacts.store import Artifact, Store
from darec.serving.releases import Releases
from schemas.release import Release


def origin(store: Store, keys: Mapping[str, str]) -> tuple[dict[str, Artifact], Release | None]:
    """The artifacts of a run (stage to key), and their release if the gate has checked it."""
    artifacts = {stage: store.artifact(stage, key) for stage, key in keys.items()}
    bundle = artifacts.get("export")
    return artifacts, Releases(store.root).of_bundle(bundle.path) if bundle else None


def report_name(artifacts: Mapping[str, Artifact], release: Release | None) -> str:
    """The release's id, else the last stage and its key. Safe as a file name."""
    if release:
        return release.id
    stage, artifact = list(artifacts.items())[-1]
    return f"{stage}-{artifact.key}"
