"""The steps of the pipeline: pure functions from inputs and configuration to files."""
