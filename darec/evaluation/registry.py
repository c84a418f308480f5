"""All metrics, by name: importing a metric's file registers it."""

from darec.evaluation import accuracy, coverage, diversity, novelty, popularity_bias
from darec.evaluation.metrics import CATALOGUE_METRICS, USER_METRICS

REGISTERED = (accuracy, coverage, diversity, novelty, popularity_bias)
NAMES = (*USER_METRICS, *CATALOGUE_METRICS)
