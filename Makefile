# Two commands do everything on a fresh machine: `make run` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEVICE ?= $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
PIP := $(BIN)/python -m pip --disable-pip-version-check
export HF_HUB_OFFLINE ?= 1
export VLLM_NO_USAGE_STATS := 1
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: run test setup lint audit ui bench clean

run: setup ## set up, then the whole pipeline on MovieLens-100K
	$(BIN)/darec run

test: setup ## set up, then linters, type checks, import contracts and all tests
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

setup: $(VENV)/.ready

# The builds of torchvision, torchaudio and torchcodec that vLLM drags in do not import beside CPU torch,
# and transformers fails on them; darec needs none of the three.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@echo "installing darec[$(DEVICE),dev]: some minutes"
	$(PIP) install -qq -e '.[$(DEVICE),dev]'
	@if [ $(DEVICE) = cpu ]; then $(PIP) uninstall --quiet --yes torchvision torchaudio torchcodec; fi
	$(BIN)/darec data fetch ml-100k
	$(BIN)/darec models fetch
	touch $@

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# In an environment of its own: what the auditor needs is none of the project's dependencies.
audit: setup ## known vulnerabilities of every package in the environment
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install -qq --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --path $(wildcard $(VENV)/lib/python*/site-packages) --progress-spinner off \
	  --output .venv-audit/audit.txt; code=$$?; cat .venv-audit/audit.txt; exit $$code

ui: setup ## Prefect server with UI, a worker and the deployments on this machine
	$(BIN)/darec ui

bench: setup ## speed beside the peers, side by side
	$(BIN)/darec bench speed

clean: ## remove the environment, keep data and artifacts
	rm -rf $(VENV) .venv-audit
