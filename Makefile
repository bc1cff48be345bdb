# `make` lists the commands. They need only Python 3.11 or 3.12, make and a shell.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The first of these that is Python 3.11 or 3.12 is used; `make install PYTHON=/path/to/python3.12` chooses another.
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3 python)
DEMO_SECONDS ?= 60
# Test files run in parallel, one file at a time in each process. With one core, this only costs memory.
WORKERS ?= 2
PYTEST_OPTIONS ?= $(if $(filter-out 0 1,$(WORKERS)),-n $(WORKERS) --dist loadfile)

export DEMO_SECONDS
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:  ## List the commands
	@echo "Millstream"
	@echo
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'
	@echo
	@echo "  DEMO_SECONDS=20 make demo      a shorter live part"
	@echo "  PYTHON=python3.12 make install another Python (3.11 or 3.12)"
	@echo "  SOAK=\"name --trials 10\" make soak   some of the long trials"
	@echo "  REDIS_URL=redis://... make up  use your own Redis server"

.PHONY: install
install: $(READY) .env  ## Create .venv from the lock file (with hashes), and a key for pseudonyms (once)

# uv installs the lock in seconds, pip in minutes; uv itself is installed by its hash in the lock. If that fails, pip is used.
$(READY): requirements.lock pyproject.toml
	@python=; for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; \
	  then python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "make install: no Python 3.11 or 3.12 among: $(CANDIDATES). Install one, or give its path: make install PYTHON=/path/to/python3.12" >&2; \
	  exit 1; fi; \
	echo "Creating $(VENV) with $$("$$python" --version)"; \
	same='import sys; print(sys.version_info[:2], sys.base_prefix)'; \
	if [ "$$("$$python" -c "$$same")" = "$$($(BIN)/python -c "$$same" 2>/dev/null)" ]; then clear=; else clear=--clear; fi; \
	"$$python" -m venv $$clear $(VENV)
	@sed -n '/^uv==/,/^    # via/p' requirements.lock > $(VENV)/uv.lock
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/uv.lock \
	    && $(BIN)/python -m uv --version >/dev/null; then \
	  $(BIN)/python -m uv pip sync --python $(BIN)/python --require-hashes requirements.lock && \
	  $(BIN)/python -m uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .; \
	else \
	  echo "uv could not be installed; using pip, which takes a few minutes"; \
	  $(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock && \
	  $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .; \
	fi
	@touch $@

# Written once: without this key, pseudonyms cannot be computed again. git ignores the file.
.env: | $(READY)
	@$(BIN)/python -m feature_repo.privacy key

.PHONY: key
key: $(READY)  ## Show the id of the pseudonym key; write a new key into .env if there is none
	@$(BIN)/python -m feature_repo.privacy key

.PHONY: demo
demo: $(READY) .env  ## Run the whole loop once: history, features, model, live scores, summary
	@$(BIN)/python -m flows.demo

.PHONY: up
up: $(READY) .env  ## Run the same stack until Ctrl-C
	@$(BIN)/python -m flows.up --traffic

.PHONY: server
server: $(READY)  ## Run only the embedded Redis server, to start the other parts yourself
	@$(BIN)/python -m flows.up --only-server

.PHONY: test
test: $(READY) .env  ## Run all tests
	@$(BIN)/python -m pytest $(PYTEST_OPTIONS)

.PHONY: lint
lint: $(READY)  ## Check style, types and imports between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: ci
ci: lint audit test  ## Run all checks of CI: lint, audit, test

.PHONY: audit
audit: $(READY)  ## Check the locked packages for known vulnerabilities, if a database is reachable
	@$(BIN)/python -m tests.audit $(AUDIT)

# The packages of the image, without those for development, are installed in a temporary environment.
.PHONY: sbom
sbom: $(READY)  ## List runtime packages with versions and licences: dist/sbom.cdx.json (CycloneDX)
	@mkdir -p dist
	@$(BIN)/python -m uv venv --quiet --clear --python $(BIN)/python dist/runtime
	@$(BIN)/python -m uv pip install --quiet --python dist/runtime/bin/python --require-hashes \
	  --constraints requirements.lock -r pyproject.toml --extra kafka
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-format JSON \
	  --output-file dist/sbom.cdx.json dist/runtime/bin/python
	@rm -rf dist/runtime
	@echo "dist/sbom.cdx.json: $$(grep -c '"purl"' dist/sbom.cdx.json) packages"

.PHONY: bench
bench: $(READY)  ## Compare speed with common alternatives: tables, bench/results/latest.json, plots (20 min)
	@$(BIN)/python -m bench.run

.PHONY: soak
soak: $(READY) .env  ## Run all long trials: kills, faults, fuzzing (hours); failing seeds are printed
	@$(BIN)/python -m tests.soak $(SOAK)

.PHONY: lock
lock: $(READY)  ## Resolve the dependencies again, with hashes, for all platforms
	$(BIN)/python -m uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --upgrade --quiet --output-file requirements.lock

.PHONY: docs
docs: $(READY)  ## Write the generated parts of the docs: settings, metrics, diagram of the flow
	$(BIN)/python docs/reference.py
	$(BIN)/python -m flows.graph docs/flow.mmd --stream payments

.PHONY: clean
clean:  ## Remove .venv, caches and build output; var/ (your data) is kept
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
