# Shortcuts. Each is a line or two of portable commands: see README.md.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
# PyTorch's own index of CPU builds (about 200 MB instead of several GB with CUDA), tried first on Linux without an
# NVIDIA GPU; empty: never.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
CLIENTS ?= $(or $(TMPDIR),/tmp)/unsway-clients
SCHEMATHESIS ?= $(or $(TMPDIR),/tmp)/unsway-schemathesis
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CONSTRAINTS := -c constraints.txt

.PHONY: serve test test-all test-clients test-kills check bench docs fix clean

serve: $(VENV)/.serve
	$(BIN)/unsway serve --port $(PORT)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist loadfile

test-all: $(VENV)/.test $(VENV)/.extras docs
	tests/e2e/install-browser $(VENV)
	tests/e2e/install-prometheus
	tests/interop/install-llama-cpp $(BIN)/python
	PYTHON=$(abspath $(BIN))/python tests/e2e/install-schemathesis $(SCHEMATHESIS)
	UNSWAY_SCHEMATHESIS=$(SCHEMATHESIS) $(BIN)/python -m pytest -m slow --ignore=tests/doctor
	$(BIN)/python -m pytest -m slow tests/doctor  # nnsight changes the interpreter: a process of its own

# Kill -9 in the midst of uploads and jobs, 50 times each instead of the 10 of test-all.
test-kills: $(VENV)/.test
	UNSWAY_KILLS=50 $(BIN)/python -m pytest -m slow tests/e2e/test_uploads_killed.py tests/e2e/test_jobs.py tests/server/jobs/test_kills.py

# Client libraries, each in an environment of its own in CLIENTS (about 1 GB, without PyTorch), against a live server.
test-clients: $(VENV)/.test
	tests/clients/install-clients $(CLIENTS) $(abspath $(BIN))/python
	UNSWAY_CLIENTS=$(CLIENTS) $(BIN)/python -m pytest -m clients tests/clients
	UNSWAY_PYTHON=$(abspath $(BIN))/python tests/clients/run-javascript

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/architecture

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Hours: BENCH="--shapes 9M --sections decode" runs a part. Other servers take part where PEERS names a folder of them.
bench: $(VENV)/.test
	@$(PIP) install -q $(CONSTRAINTS) psutil accelerate  # what transformers' continuous batching and its server need
	$(BIN)/python -m tests.bench $(if $(PEERS),--peers $(PEERS)) $(BENCH)

# The site of docs/, in build/docs.
docs: $(VENV)/.torch
	@$(PIP) install -q $(CONSTRAINTS) zensical
	$(BIN)/zensical build --strict

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing PyTorch (CPU: about 200 MB) and the rest (about 100 MB) into $(VENV) ..."
	@if [ -n "$(TORCH_INDEX)" ] && [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
		$(PIP) install -q --timeout 5 --retries 0 --index-url $(TORCH_INDEX) $$(grep ^torch== constraints.txt) 2>/dev/null \
		|| $(PIP) install -q $$(grep ^torch== constraints.txt); \
	else $(PIP) install -q $$(grep ^torch== constraints.txt); fi
	@touch $@

$(VENV)/.serve: $(VENV)/.torch pyproject.toml
	@$(PIP) install -q $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml
	@$(PIP) install -q $(CONSTRAINTS) -e ".[test]"
	@touch $@ $(VENV)/.serve

# The extras `quantize` and `calibrate`, without what tuned-lens asks for and the doctor never imports (0.5 GB).
$(VENV)/.extras: $(VENV)/.test
	@$(PIP) install -q $(CONSTRAINTS) torchao bitsandbytes accelerate nnsight
	@$(PIP) install -q $(CONSTRAINTS) --no-deps tuned-lens
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@$(PIP) install -q $(CONSTRAINTS) -e ".[dev]"
	@touch $@ $(VENV)/.serve $(VENV)/.test
