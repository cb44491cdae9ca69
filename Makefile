# The first target that needs it installs everything into .venv. Only Python 3.11 or newer must be installed.
PYTHON ?= python3
VENV ?= .venv
# TORCH=0: do not install PyTorch, and skip the tests that compare with it.
TORCH ?= 1
# Number of test processes.
JOBS ?= 2
BIN = $(VENV)/bin
FUZZ = tests/faults/test_mutated_files.py tests/faults/test_damaged_checkpoints.py
# Minutes of `make bench-accelerator`; folder of the raw CamVid for `make bundle`.
MINUTES ?= 12
CAMVID ?= CamVid

.PHONY: quickstart test test-layouts test-faults test-fuzz test-parity test-accelerator test-notebook test-demo lint docs
.PHONY: bench bench-accelerator bundle compare clean

quickstart: $(VENV)/.ready  ## Train a CPNet on generated scenes, evaluate it, draw predictions.
	$(BIN)/python main.py --config=configs/quickstart.py

test: $(VENV)/.ready-test-$(TORCH) lint  ## Run the tests.
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-layouts: $(VENV)/.ready-test-0  ## Check that any number of devices and processes gives the same numbers; two minutes.
	$(BIN)/python -m pytest -m long tests/multihost

test-parity: $(VENV)/.ready-test-1  ## Compare networks of every kind with PyTorch; a minute.
	$(BIN)/python -m pytest -s -m long tests/parity

test-faults: $(VENV)/.ready-test-0  ## Break runs in the ways they break on pods; half an hour.
	$(BIN)/python -m pytest -s -m long tests/faults $(FUZZ:%=--ignore=%)

test-fuzz: $(VENV)/.ready-test-0  ## Read damaged files, MUTATED_FILES=100000 of them, and checkpoints; tens of minutes.
	$(BIN)/python -m pytest -s -m long $(FUZZ)

test-accelerator: $(VENV)/.ready-test-1  ## Take every item of bench-accelerator in small sizes, on the CPU; minutes.
	rm -rf .cache/accelerator
	$(BIN)/python benchmarks/accelerator.py --tiny --minutes=60 --out=.cache/accelerator

test-demo: $(VENV)/.ready-demo  ## Drop pictures on the page of --mode=demo, in the browsers that are installed; minutes.
	$(BIN)/python -m pytest tests/demo

test-notebook: $(VENV)/.ready-notebook  ## Run examples/cpnet_jax.ipynb from top to bottom, in small sizes; a minute or two.
	$(BIN)/python -m pytest -m long tests/test_notebook.py

lint: $(VENV)/.ready-test-$(TORCH)  ## Check style, formatting and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

docs: $(VENV)/.ready  ## Write docs/config.md from the comments in configs/default.py.
	$(BIN)/python docs/generate_config.py

bench: $(VENV)/.ready-test-1  ## Time the context prior and a training step against PyTorch, estimate the step on TPUs; half an hour.
	$(BIN)/python benchmarks/context_prior.py
	$(BIN)/python benchmarks/train_step.py
	@# Status 2: libtpu is not installed.
	$(BIN)/python benchmarks/tpu_plan.py || test $$? -eq 2

bench-accelerator: $(VENV)/.ready-test-1  ## Measure on a GPU or TPU: steps, CamVid, forms, evaluation; make ... MINUTES=12.
	$(BIN)/python benchmarks/accelerator.py --minutes=$(MINUTES) --out=runs/accelerator

bundle: $(VENV)/.ready-test-1  ## Write bundle/ for a GPU machine without network; make bundle CAMVID=FOLDER.
	$(BIN)/python benchmarks/bundle.py --source=$(CAMVID)

compare: $(VENV)/.ready  ## Run the ablation on the scenes, three seeds each; one to two hours.
	$(BIN)/python benchmarks/ablation.py --table=scenes --classes=sea,sand,bed,table

clean:
	rm -rf $(VENV) .cache runs data

$(VENV)/.ready: requirements.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than 3.11: name a newer one, make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)"; exit 2; }
	@echo "Installing the requirements into $(VENV), about a minute"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/.ready-test-0: $(VENV)/.ready requirements-test.txt
	@# --no-deps: cityscapesScripts requires packages that its evaluation does not need (matplotlib, typing for Python 2).
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-test.txt
	@touch $@

$(VENV)/.ready-test-1: $(VENV)/.ready-test-0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[torch]'
	@touch $@

$(VENV)/.ready-demo: $(VENV)/.ready-test-0 requirements-demo.txt
	@# Gradio needs an older Pillow than requirements.txt has.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-demo.txt
	@touch $@

$(VENV)/.ready-notebook: $(VENV)/.ready-test-0 requirements-notebook.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-notebook.txt
	@touch $@
