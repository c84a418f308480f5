"""The steps of the pipeline: `declarations` says what each reads and writes; one module per step does the work."""
