# `make` alone says what there is. Nothing here needs more than Python 3.11 or 3.12, make and a shell.

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The first of these that runs and is 3.11 or 3.12; `make install PYTHON=/path/to/python3.12` chooses another.
CANDIDATES := $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3 python)
DEMO_SECONDS ?= 60
# Test files run in parallel, one file at a time in each process. On one core that would only cost memory.
WORKERS ?= 2
PYTEST_OPTIONS ?= $(if $(filter-out 0 1,$(WORKERS)),-n $(WORKERS) --dist loadfile)

export DEMO_SECONDS
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:  ## What there is
	@echo "Millstream"
	@echo
	@sed -n 's/^\([a-z]*\):.*##  *\(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'
	@echo
	@echo "  DEMO_SECONDS=20 make demo      a shorter live part"
	@echo "  PYTHON=python3.12 make install another Python (3.11 or 3.12)"
	@echo "  SOAK=\"name --trials 10\" make soak   some of the heavy trials"
	@echo "  REDIS_URL=redis://... make up  a server of your own instead of the embedded one"

.PHONY: install
install: $(READY) .env  ## Make .venv from the hashed lock, and a key for pseudonyms (once)

# uv installs the lock in seconds where pip takes minutes; it is itself installed by its hash in the lock.
# Without uv, pip does the same work.
$(READY): requirements.lock pyproject.toml
	@python=; for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; \
	  then python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "make install: no Python 3.11 or 3.12 among: $(CANDIDATES). Install one, or name it: make install PYTHON=/path/to/python3.12" >&2; \
	  exit 1; fi; \
	echo "Making $(VENV) with $$("$$python" --version)"; \
	same='import sys; print(sys.version_info[:2], sys.base_prefix)'; \
	if [ "$$("$$python" -c "$$same")" = "$$($(BIN)/python -c "$$same" 2>/dev/null)" ]; then clear=; else clear=--clear; fi; \
	"$$python" -m venv $$clear $(VENV)
	@sed -n '/^uv==/,/^    # via/p' requirements.lock > $(VENV)/uv.lock
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/uv.lock \
	    && $(BIN)/python -m uv --version >/dev/null; then \
	  $(BIN)/python -m uv pip sync --python $(BIN)/python --require-hashes requirements.lock && \
	  $(BIN)/python -m uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .; \
	else \
	  echo "uv is not to be had here; pip takes a few minutes"; \
	  $(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock && \
	  $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .; \
	fi
	@touch $@

# Written once and never again: pseudonyms cannot be made anew without their key. git ignores it.
.env: | $(READY)
	@$(BIN)/python -m feature_repo.privacy key

.PHONY: key
key: $(READY)  ## Say which key pseudonyms are made with; write one into .env if there is none
	@$(BIN)/python -m feature_repo.privacy key

.PHONY: demo
demo: $(READY) .env  ## The whole loop once, unattended: history, features, model, live scores, summary
	@$(BIN)/python -m flows.demo

.PHONY: up
up: $(READY) .env  ## The same stack, running until Ctrl-C
	@$(BIN)/python -m flows.up --traffic

.PHONY: server
server: $(READY)  ## Only the embedded Redis server, to start the other parts by hand
	@$(BIN)/python -m flows.up --only-server

.PHONY: test
test: $(READY) .env  ## All tests
	@$(BIN)/python -m pytest $(PYTEST_OPTIONS)

.PHONY: lint
lint: $(READY)  ## Style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(READY)  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: ci
ci: lint audit test  ## Everything that is checked: lint, audit, then test

.PHONY: audit
audit: $(READY)  ## Known vulnerabilities of the locked packages, where a database of them is reachable
	@$(BIN)/python -m tests.audit $(AUDIT)

# What runs, not what its developers need: the packages of the image, installed beside for a moment.
.PHONY: sbom
sbom: $(READY)  ## List what runs, with versions and licences: dist/sbom.cdx.json (CycloneDX)
	@mkdir -p dist
	@$(BIN)/python -m uv venv --quiet --clear --python $(BIN)/python dist/runtime
	@$(BIN)/python -m uv pip install --quiet --python dist/runtime/bin/python --require-hashes \
	  --constraints requirements.lock -r pyproject.toml --extra kafka
	@$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-format JSON \
	  --output-file dist/sbom.cdx.json dist/runtime/bin/python
	@rm -rf dist/runtime
	@echo "dist/sbom.cdx.json: $$(grep -c '"purl"' dist/sbom.cdx.json) packages"

.PHONY: bench
bench: $(READY)  ## Speed against what people use today: tables, bench/results/latest.json, plots (20 min)
	@$(BIN)/python -m bench.run

.PHONY: soak
soak: $(READY) .env  ## Heavy trials in full: kills, faults, fuzzing (hours); each failing seed is printed
	@$(BIN)/python -m tests.soak $(SOAK)

.PHONY: lock
lock: $(READY)  ## Resolve the dependencies anew, with hashes, for every platform
	$(BIN)/python -m uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --upgrade --quiet --output-file requirements.lock

.PHONY: docs
docs: $(READY)  ## Write the generated parts of the docs: settings, metrics, picture of the flow
	$(BIN)/python docs/reference.py
	$(BIN)/python -m flows.graph docs/flow.mmd --stream payments

.PHONY: clean
clean:  ## Remove .venv, caches and build leftovers; var/ (your data) stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
