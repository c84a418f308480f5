"""The version of darec: `pyproject.toml`, `darec.__version__` and `darec --version` read it here."""

__version__ = "0.2.0"
