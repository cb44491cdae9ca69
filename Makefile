# Everything is set up in .venv by the first target that needs it; only Python 3.11 or newer has to be there.
PYTHON ?= python3
VENV ?= .venv
# TORCH=0 leaves PyTorch out, and with it the tests that compare with it.
TORCH ?= 1
# Tests run in so many processes.
JOBS ?= 2
BIN = $(VENV)/bin

.PHONY: quickstart test test-layouts test-faults test-parity lint bench compare clean

quickstart: $(VENV)/.ready  ## Train a CPNet on generated scenes, evaluate it, draw predictions.
	$(BIN)/python main.py --config=configs/quickstart.py

test: $(VENV)/.ready-test-$(TORCH) lint  ## Run the tests.
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-layouts: $(VENV)/.ready-test-0  ## The same numbers on any number of devices and processes; two minutes.
	$(BIN)/python -m pytest -m long tests/multihost

test-parity: $(VENV)/.ready-test-1  ## Networks of every kind against PyTorch's, to the last digits; a minute.
	$(BIN)/python -m pytest -s -m long tests/parity

test-faults: $(VENV)/.ready-test-0  ## Break runs in every way they break on pods; a quarter of an hour.
	$(BIN)/python -m pytest -s -m long tests/faults

lint: $(VENV)/.ready-test-$(TORCH)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/.ready-test-1  ## Against PyTorch: the context prior and a training step; the step on TPUs; half an hour.
	$(BIN)/python benchmarks/context_prior.py
	$(BIN)/python benchmarks/train_step.py
	@# Status 2: libtpu is not installed, as it says.
	$(BIN)/python benchmarks/tpu_plan.py || test $$? -eq 2

compare: $(VENV)/.ready  ## What each part is worth on the scenes, three seeds each; an hour and a half.
	$(BIN)/python benchmarks/ablation.py --table=scenes --classes=sea,sand,bed,table

clean:
	rm -rf $(VENV) runs data

$(VENV)/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than 3.11: name a newer one, make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)"; exit 2; }
	@echo "Installing the requirements into $(VENV), a minute or so"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.ready-test-0: $(VENV)/.ready
	@# The list is complete; cityscapesScripts asks for more (matplotlib, a typing for Python 2) than its evaluation needs.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-test.txt
	@touch $@

$(VENV)/.ready-test-1: $(VENV)/.ready-test-0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[torch]'
	@touch $@
