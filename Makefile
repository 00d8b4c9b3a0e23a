# make demo | setup | test | check | lint | coverage | mutants | fmt | bench.  TORCH_ARGS passes options to pip (README, "Installing").
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_ARGS ?=
# One file, one process: its fixtures are built once.
PARALLEL ?= -n auto --maxprocesses 8 --dist loadfile
MODULES ?=
ARGS ?=
STAMP := $(VENV)/.installed
NODE_STAMP := node_modules/.installed

.PHONY: setup demo test check lint coverage mutants fmt bench browser nginx clean

# The tools that check the pages' scripts come with npm; `make lint` and `make test` insist on them, the rest goes without.
setup: $(STAMP)
	@! command -v npm >/dev/null || $(MAKE) -s $(NODE_STAMP) || true

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "radpref needs Python 3.11 or newer: make setup PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt $(TORCH_ARGS) -e '.[dev]'
	@touch $@

$(NODE_STAMP): package.json package-lock.json
	@sh scripts/install_node.sh
	npm ci --no-audit --no-fund --loglevel=error
	@touch $@

demo: $(STAMP)
	$(BIN)/radpref demo $(ARGS)

browser:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || command -v chromium-browser >/dev/null || sh scripts/install_chromium.sh

nginx:
	@command -v nginx >/dev/null || test -x /usr/sbin/nginx || sh scripts/install_nginx.sh

test: setup $(NODE_STAMP) browser nginx
	npm test --silent
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

check: setup browser
	$(BIN)/python -m pytest -m "not slow and not browser" -x -q $(PARALLEL) $(ARGS)

lint: setup $(NODE_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	npm run lint --silent

# Lines and branches that the Python tests run in their own processes (not those of subprocesses).
coverage: setup browser nginx
	$(BIN)/python -m pytest $(PARALLEL) --cov=radpref --cov-branch --cov-report=term:skip-covered $(ARGS)

mutants: setup
	$(BIN)/python scripts/mutants.py $(MODULES)

fmt: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m benchmarks.embedded --size full --json
	$(BIN)/python -m benchmarks.sampling --size embedded --peer-from-diffusers --json
	$(BIN)/python -m benchmarks.serve --size full --json
	$(BIN)/python -m benchmarks.imports --size full --json
	$(BIN)/python -m benchmarks.memory --size embedded --json
	$(BIN)/python -m benchmarks.copies --size full --json

clean:
	rm -rf $(VENV) node_modules .mypy_cache .ruff_cache .pytest_cache
