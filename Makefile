# Everything a user or developer runs; `make` alone lists it. Needs Python 3.11 and package
# registries. Everything is installed into .venv, everything the local stack writes goes to .raftline.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV ?= .venv
JOBS ?= 2
TORCH := torch==2.13.0

BIN := $(VENV)/bin
LOCK_HASH := $(shell cat pyproject.toml requirements*.lock | sha256sum | cut -c1-16)
STAMP := $(VENV)/.installed-$(LOCK_HASH)
STAMP_DEV := $(VENV)/.installed-dev-$(LOCK_HASH)
LOG = $(VENV)/install.log
# Quiet on the terminal, complete in the log; a failure shows the log's end.
TO_LOG = >>$(LOG) 2>&1 || { tail -n 30 $(LOG); echo "Installation failed; the whole log is $(LOG)."; exit 1; }
# Sees what is in $(VENV), and its own packages first.
OLDEST := $(VENV)/oldest
STARTED := $(shell date +%s)
# DeepSpeed's build neither compiles kernels nor looks for a GPU's toolkit, wherever it runs.
PIP = DS_BUILD_OPS=0 DS_ACCELERATOR=cpu PIP_DISABLE_PIP_VERSION_CHECK=1 \
	$(BIN)/python -m pip install --no-input

##@ Use

.PHONY: demo
demo: install ## The whole pipeline on the built-in sample corpus, from documents to promoted model
	$(BIN)/raftline demo $(ARGS)

.PHONY: up
up: install ## Start the local stack: Prefect, S3, workers, all on loopback
	$(BIN)/raftline up $(ARGS)

.PHONY: down
down: install ## Stop what `make up` started
	$(BIN)/raftline down $(ARGS)

##@ Develop

.PHONY: test
test: install-dev ## Run the tests; ARGS="tests/corpus -k chunk" picks some, JOBS=0: one process
	$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile $(ARGS)

.PHONY: test-gpu
test-gpu: install-dev ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu $(ARGS)

.PHONY: test-oldest
test-oldest: $(OLDEST)/.installed-$(LOCK_HASH) ## The training tests on the oldest transformers that pyproject.toml allows
	$(OLDEST)/bin/python -m pytest --numprocesses=$(JOBS) --dist=loadfile -m 'not gpu' $(or $(ARGS),tests/training)

.PHONY: check
check: install-dev ## Lint, format, types, import contracts, spelling, YAML, Dockerfiles, compose file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/yamllint --strict .
	$(BIN)/hadolint --config docker/.hadolint.yaml docker/Dockerfile.*
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

BENCHMARKS = $(subst /,.,$(patsubst benchmarks/%.py,%,$(filter-out %/__init__.py,$(wildcard benchmarks/*/*.py))))
.PHONY: bench
bench: install-dev ## Run the benchmarks, one after another; BENCHMARKS=training.answer_head picks one
	@for each in $(BENCHMARKS); do echo "== $$each"; $(BIN)/python -m benchmarks.$$each; done

.PHONY: format
format: install-dev ## Apply the formatter and the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: clean
clean: ## Remove caches and build output; keeps .venv and .raftline
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

##@ Install

.PHONY: install
install: $(STAMP) ## Install what using Raftline needs

.PHONY: install-dev
install-dev: $(STAMP_DEV) ## Install what developing needs as well

.PHONY: dependencies
dependencies: ## Install what Raftline needs, not Raftline itself (images build in two steps)
	@$(MAKE) --no-print-directory .dependencies REQUIREMENTS=requirements.lock

$(STAMP):
	@$(MAKE) --no-print-directory .install REQUIREMENTS=requirements.lock
	@touch $@

$(STAMP_DEV):
	@$(MAKE) --no-print-directory .install REQUIREMENTS=requirements-dev.lock
	@touch $(STAMP) $@

# torch comes first and outside the lock files, so that a machine keeps its own build (CPU or CUDA).
.PHONY: .dependencies
.dependencies:
	@$(BIN)/python -c '' 2>/dev/null || { echo "Creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv --clear $(VENV); }
	@rm -f $(VENV)/.installed-* && : >$(LOG)
	@echo "[1/4] pip and build tools"
	@$(PIP) --no-deps --require-hashes -r requirements-build.lock $(TO_LOG)
	@echo "[2/4] $(TORCH) (200 MB for a CPU build, several GB for CUDA)"
	@$(PIP) '$(TORCH)' $(TO_LOG)
	@echo "[3/4] $$(grep -c '^[a-z]' $(REQUIREMENTS)) packages of $(REQUIREMENTS) (a few minutes)"
	@$(PIP) --no-deps --no-build-isolation --require-hashes -r $(REQUIREMENTS) $(TO_LOG)

.PHONY: .install
.install: .dependencies
	@echo "[4/4] raftline"
	@$(PIP) --no-deps --no-build-isolation --editable . $(TO_LOG)
	@$(BIN)/python -m pip check $(TO_LOG)
	@echo "Installed into $(VENV) in $$(( $$(date +%s) - $(STARTED) )) s"

$(OLDEST)/.installed-$(LOCK_HASH): $(STAMP_DEV)
	@$(MAKE) --no-print-directory .oldest NEWEST=$(VENV) VENV=$(OLDEST)
	@touch $@

PURELIB = -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
.PHONY: .oldest
.oldest:
	@$(NEWEST)/bin/python -m venv --clear --without-pip $(VENV) && : >$(LOG)
	@echo "$$(grep -c '^[a-z]' requirements-oldest.lock) packages of requirements-oldest.lock, before those of $(NEWEST)"
	@echo "import site; site.addsitedir('$$($(NEWEST)/bin/python $(PURELIB))')" >"$$($(BIN)/python $(PURELIB))/newest.pth"
	@ln -s $(abspath $(NEWEST)/bin/rclone) $(BIN)/
	@$(PIP) --no-deps --require-hashes -r requirements-oldest.lock $(TO_LOG)
	@$(PIP) --no-deps --no-build-isolation --editable . $(TO_LOG)
	@$(BIN)/python -m pip check $(TO_LOG)

# Pins are kept as far as pyproject.toml allows; UPGRADE=1 takes the newest versions instead.
COMPILE = $(BIN)/uv pip compile --quiet $(if $(UPGRADE),--upgrade)
.PHONY: lock
lock: ## Refresh the lock files from pyproject.toml; UPGRADE=1 moves to the newest versions
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet 'uv>=0.9'
	$(COMPILE) pyproject.toml --output-file requirements.lock
	$(COMPILE) pyproject.toml --extra dev --constraints requirements.lock --output-file requirements-dev.lock
	$(COMPILE) --group build --constraints requirements.lock --output-file requirements-build.lock
	$(COMPILE) --group oldest --no-deps --output-file requirements-oldest.lock
	$(COMPILE) --group server --constraints requirements-dev.lock --output-file docker/requirements-server.lock

##@ Help

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
