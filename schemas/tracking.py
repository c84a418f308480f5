"""Configuration of the experiment tracker."""

from schemas.secret import OpenAddress
from schemas.section import Section, not_hashed


class TrackingConfig(Section):
    """Sends every run to MLflow: its settings, metrics, training curves, outcome and HTML report. A failure of the
    tracker does not fail the run. Needs `pip install 'darec[tracking]'`."""

    address: OpenAddress | None = not_hashed(None)
    """Tracking server or database, such as http://mlflow.example:5000 or sqlite:////srv/mlflow.db. It must not contain
    a password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead. null: the value of
    MLFLOW_TRACKING_URI."""
    experiment: str = not_hashed("darec", min_length=1)
    """Name of the experiment, which is created if it does not exist."""
