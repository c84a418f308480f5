"""graph: computes the weighted edge list of the train interactions."""

from darec.artifacts.files import EDGES, TRAIN_PART
from darec.dataset.graph import edge_list
from schemas.reports import GraphReport
from stages.contract import Outcome, StageContext


def run(context: StageContext) -> Outcome[GraphReport]:
    """Builds the edge list."""
    edges = edge_list(context.scan(TRAIN_PART), context.recipe.graph)
    context.write(EDGES, edges)
    return Outcome(edges.height, GraphReport(edges=edges.height))
