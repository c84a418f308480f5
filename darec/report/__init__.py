"""The report of a run: collected as plain values (`collect`), then written as one HTML file (`render`)."""
