"""The section about the reading and splitting of the raw data."""

from darec.report.content import DataNotes
from darec.report.source import Source
from schemas.reports import IngestReport, SplitReport


def data_notes(source: Source) -> DataNotes:
    """Remarks, lost rows and doubts of ingest, and users and items of the test that the model does not know."""
    ingest = IngestReport.model_validate(source.artifact("ingest").manifest.report)
    split = SplitReport.model_validate(source.artifact("split").manifest.report)
    return DataNotes(read=ingest.notes, remarks=(*ingest.remarks, *split.remarks))
