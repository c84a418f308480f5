#!/bin/sh
# Registers the deployments, then works on what the server hands out.
set -eu
darec deploy
exec python -m prefect worker start --pool darec --type process --with-healthcheck
