"""ingest: reads the raw files and writes clean tables of interactions, items and users."""

from darec.artifacts.files import DISLIKES, INTERACTIONS, ITEMS, USERS
from darec.dataset.clean import clean
from darec.dataset.readers import read_source
from darec.dataset.remote import local, named_by_source, origins, sources_in
from schemas.copies import COPIES
from schemas.reports import IngestReport
from stages.contract import Outcome, StageContext


def run(context: StageContext) -> Outcome[IngestReport]:
    """Reads and cleans the raw data."""
    copies = context.store / COPIES
    config = local(context.recipe.data, copies)
    with named_by_source(context.recipe.data, copies):
        data = clean(read_source(config, context.work / "unpacked"), config)

    context.sink(INTERACTIONS, data.query)
    context.write(ITEMS, data.items)
    context.write(USERS, data.users)
    if data.dislikes is not None:
        context.write(DISLIKES, data.dislikes)
    notes = [*data.report["notes"], *origins(context.recipe.data, copies)]
    read = [source.copy.path.name for source in sources_in(context.recipe.data, copies)]
    report = IngestReport.model_validate(data.report | {"notes": notes, "copies": read})
    return Outcome(report.rows_out, report)
