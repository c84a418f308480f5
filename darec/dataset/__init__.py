"""From raw files to clean tables, to train / val / test, to a graph."""
