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

.PHONY: run test coverage setup lint docs audit lock ui compose-check bench clean

run: setup ## set up, then the whole pipeline on MovieLens-100K
	$(BIN)/darec run

test: setup ## set up, then linters, type checks, import contracts and all tests
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

coverage: setup ## branch coverage of the tests and of the processes that they start, least covered files first
	mkdir -p .coverage
	$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/compose --cov

setup: $(VENV)/.ready

# The locks name every package, so nothing is resolved here.
$(VENV)/.ready: pyproject.toml locks/torch-cpu.txt locks/$(DEVICE).txt locks/dev.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing darec for $(DEVICE): some minutes"
	@if [ $(DEVICE) = cpu ]; then $(PIP) install -qq --no-deps -r locks/torch-cpu.txt; fi
	$(PIP) install -qq --no-deps --require-hashes -r locks/$(DEVICE).txt -r locks/dev.txt
	$(PIP) install -qq --no-deps --no-build-isolation -e .
	$(BIN)/darec data fetch ml-100k
	$(BIN)/darec models fetch
	touch $@

lint: ## style, types, import contracts, spelling and wording
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python -m pytest -q tests/unit/test_english.py

docs: setup ## the documentation site, in site/
	$(PIP) install -qq --no-deps --require-hashes -r locks/docs.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# In a separate environment, because the dependencies of the auditor are not those of the project.
audit: setup ## known vulnerabilities of every package in the environment
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install -qq --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --path $(wildcard $(VENV)/lib/python*/site-packages) --progress-spinner off \
	  --output .venv-audit/audit.txt; code=$$?; cat .venv-audit/audit.txt; exit $$code

# torch+cpu is not on PyPI: it is taken from the find-links of pip's configuration, or else from PyTorch's index.
WHEELS = $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)
COMPILE = .venv-lock/bin/uv pip compile --quiet --no-header --no-annotate --generate-hashes \
  --python-version 3.11 --python-platform x86_64-manylinux_2_28
COMPILE_CPU = $(COMPILE) $(if $(WHEELS),--find-links $(WHEELS),--torch-backend cpu) pyproject.toml locks/torch-cpu.txt --extra cpu
# torch is locked in a separate file, because its files differ between indexes. The other three are dependencies of vLLM
# that cannot be imported with CPU torch and make transformers fail; darec does not need them.
OMIT = $(addprefix --no-emit-package ,torch torchvision torchaudio torchcodec)
OMIT_RUNTIME = $$(sed -n 's/^\([a-z0-9.-]*\)==.*/--no-emit-package \1/p' locks/cpu.txt)

lock: ## update the locks: every package at its newest compatible version
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install -qq --disable-pip-version-check uv
	rm -f locks/cpu.txt locks/gpu.txt locks/dev.txt locks/docs.txt locks/server.txt locks/extra-*.txt
	$(COMPILE_CPU) $(OMIT) -o locks/cpu.txt >/dev/null
	$(COMPILE_CPU) --extra dev --constraint locks/cpu.txt $(OMIT) $(OMIT_RUNTIME) -o locks/dev.txt >/dev/null
	$(COMPILE_CPU) --extra docs --constraint locks/cpu.txt --constraint locks/dev.txt $(OMIT) $(OMIT_RUNTIME) -o locks/docs.txt >/dev/null
	for extra in cloud databases ray tracking vectors; do \
	  $(COMPILE_CPU) --extra $$extra --constraint locks/cpu.txt --constraint locks/dev.txt $(OMIT) $(OMIT_RUNTIME) \
	    -o locks/extra-$$extra.txt >/dev/null || exit 1; done
	$(COMPILE) locks/server.in --constraint locks/cpu.txt -o locks/server.txt >/dev/null
	cat locks/cpu.txt locks/dev.txt > locks/gpu.txt  # these versions are kept if they are compatible
	$(COMPILE) pyproject.toml --extra gpu -o locks/gpu.txt >/dev/null

ui: setup ## database, Prefect server with UI, worker and deployments on this machine
	$(BIN)/darec ui

compose-check: setup ## docker-compose.yml in real containers: a run, kills, backup and restore, a replaced image
	@docker info >/dev/null 2>&1 || { echo 'NOT CHECKED: there is no Docker engine'; exit 1; }
	DAREC_COMPOSE=1 $(BIN)/python -m pytest -v tests/compose

bench: setup ## speed compared with other libraries
	$(BIN)/darec bench speed

clean: ## remove the environment, keep data and artifacts
	rm -rf $(VENV) .venv-audit .venv-lock .coverage site
