"""vectors: pushes the release in production to the vector store.

This is an effect, because the vector store is outside the artifact store. It follows publish and uses the release that
is then current.
"""

from darec.common.errors import DarecError, UserError
from darec.serving.vectors import follow, served
from schemas.reports import VectorsReport
from schemas.vectors import VectorsConfig
from stages.contract import Outcome, StageContext


def run(context: StageContext) -> Outcome[VectorsReport]:
    """Pushes the release, or only switches to it if it is already there. Without a release, nothing is pushed."""
    report = follow(context.store, _section(context), context.progress)
    return Outcome(report.users + report.items, report)


def settled(context: StageContext) -> VectorsReport | None:
    """The release that the store serves, if it is the current one; None if the store does not answer."""
    try:
        return served(context.store, _section(context))
    except UserError:
        raise
    except DarecError:
        return None


def _section(context: StageContext) -> VectorsConfig:
    config: VectorsConfig | None = context.config["vectors"]
    if config is None:
        hint = "add `vectors: {store: pgvector, address: ...}` to the recipe"
        raise UserError("the recipe has no section vectors", where="vectors", hint=hint)
    return config
