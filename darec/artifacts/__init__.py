"""Artifacts: their keys, the store that holds them, the row ledger and checked tables."""
