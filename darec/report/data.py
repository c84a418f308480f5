"""How the raw data was read and split."""

from darec.report.content import DataNotes
from darec.report.source import Source
from schemas.reports import IngestReport, SplitReport


def data_notes(source: Source) -> DataNotes:
    """What ingest saw, what it lost and doubts, and what of the test the model cannot know."""
    ingest = IngestReport.model_validate(source.artifact("ingest").manifest.report)
    split = SplitReport.model_validate(source.artifact("split").manifest.report)
    return DataNotes(read=ingest.notes, remarks=(*ingest.remarks, *split.remarks))
