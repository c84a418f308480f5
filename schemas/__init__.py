"""Data without behaviour: configuration, column names, table schemas, manifests and reports."""
