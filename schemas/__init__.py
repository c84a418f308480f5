"""Contracts: column names, table schemas, configuration, manifest and report shapes."""
