# Two commands suffice: `make demo` installs into .venv and scans the demo model,
# `make test` installs and runs everything that a reviewer would.

PYTHON ?= python3
# By version and without a hash: builds for other processors and GPUs are other files.
TORCH ?= torch==2.13.0
BIN := .venv/bin
SLOW ?= not slow
WORKERS ?= 2

.PHONY: demo test test-slow docs check install lock format lint types layers dependencies unit wheel benchmarks clean

demo: install
	$(BIN)/srdd scan demo --force --output build/demo-scan.json

test: install check unit

# Also the tests marked `slow`.
test-slow: install check
	$(MAKE) unit SLOW="slow or not slow"

check: format lint types layers dependencies

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	mkdir -p build
	touch $@

format:
	$(BIN)/ruff format --check .

lint:
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

layers:
	$(BIN)/lint-imports

dependencies:
	$(BIN)/deptry .

unit:
	$(BIN)/pytest -m "$(SLOW)" -n $(WORKERS) --cov --cov-report=term

# What the program prints, written anew into README.md and docs/.
docs: install
	$(BIN)/python tests/readme_blocks.py

# Written anew from what is installed, with the hashes of every file that the index has of it.
lock:
	$(BIN)/python -m pip freeze --all --exclude-editable | grep -vE '^(torch|pip)==' > build/requirements.in
	{ echo "# Exact versions and hashes of all that \`make\` installs besides torch; made with \`make lock\` on Python 3.11."; \
	  $(BIN)/uv pip compile --no-deps --generate-hashes --no-header --no-annotate --quiet build/requirements.in; \
	} > requirements.lock.new
	mv requirements.lock.new requirements.lock

wheel: install
	$(BIN)/python -m build --outdir build/dist

benchmarks: install
	$(BIN)/python -m benchmarks.kernel
	$(BIN)/python -m benchmarks.formats
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.report
	$(BIN)/python -m benchmarks.compare
	$(BIN)/python -m benchmarks.coverage
	$(BIN)/python -m benchmarks.noise
	$(BIN)/python -m benchmarks.recipe_check
	$(BIN)/python -m benchmarks.simulation
	$(BIN)/python -m benchmarks.scan memory
	$(BIN)/python -m benchmarks.scan weights
	$(BIN)/python -m benchmarks.scan overhead
	$(BIN)/python -m benchmarks.scan sites
	$(BIN)/python -m benchmarks.scan document
	$(BIN)/python -m benchmarks.scan against-naive

clean:
	rm -rf .venv build .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
