#!/bin/sh
# Registers the deployments, then runs a worker. DAREC_POOL: a work pool of the recipe, for the
# worker of another machine, which registers nothing.
set -eu
if [ "${DAREC_LOG:-text}" = json ]; then export PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER=json; fi
pool=${DAREC_POOL:-darec}
if [ "$pool" = darec ]; then darec deploy; fi
exec python -m prefect worker start --pool "$pool" --type process --with-healthcheck
