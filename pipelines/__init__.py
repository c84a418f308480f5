"""Running the pipeline: Prefect flows, deployments, services and the command line."""
