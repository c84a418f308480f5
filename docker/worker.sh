#!/bin/sh
# Registers the deployments, then works on what the server hands out.
set -eu
if [ "${DAREC_LOG:-text}" = json ]; then export PREFECT_LOGGING_HANDLERS_CONSOLE_FORMATTER=json; fi
darec deploy
exec python -m prefect worker start --pool darec --type process --with-healthcheck
