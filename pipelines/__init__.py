"""When the steps run: Prefect flows, deployments and the command line."""
