"""The steps of the pipeline. `declarations` defines their inputs and outputs; each step has one module with its
body."""
