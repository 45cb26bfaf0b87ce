# make demo    sets everything up and runs one job from its submission to its downloaded results
# make test    sets up what the tests need and runs all of them, real servers included
#
# Both need only make, git and Python 3.11 or later. Written to: .venv, and the cache folder ($SHOAL_CACHE, else
# ~/.cache/shoal). System packages are installed only by root on Debian, with CI=true or SETUP=system.

BIN := .venv/bin
TESTS ?= tests
WORKERS ?= 2
ONLY ?=
ARGS ?=

.PHONY: setup demo test check fmt bench faults lock clean

setup:
	@deploy/setup python

demo:
	@deploy/setup python kubo s3 docker images
	@$(BIN)/python -m deploy.demo

# The tests wait more than they work, so two workers share them (WORKERS=0: one after the other, in this process).
test:
	@deploy/setup python kubo s3 docker registry images filesystems clients
	@$(MAKE) --no-print-directory --keep-going lint; lint=$$?; $(BIN)/pytest -n $(WORKERS) $(TESTS) && exit $$lint

# Everything that needs no server: quick enough before each commit.
check: setup
	@$(MAKE) --no-print-directory --keep-going lint

# One target each, so that --keep-going tells all faults at once.
.PHONY: lint lint-format lint-code lint-types lint-imports
lint: lint-format lint-code lint-types lint-imports
lint-format:
	$(BIN)/ruff format --check --quiet .
lint-code:
	$(BIN)/ruff check --quiet .
lint-types:
	$(BIN)/mypy
lint-imports:
	$(BIN)/lint-imports

fmt: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# ONLY=NAME for a part (benchmarks/__main__.py names them). The figures also go to benchmarks/results.json. ONLY=peer builds
# Bacalhau first, once: some six minutes on two slow cores.
bench:
	@deploy/setup python kubo s3 docker images s5cmd $(filter peer,$(ONLY))
	@ONLY=$(ONLY) $(BIN)/python -m benchmarks

# Jobs under real kills, pauses and cut cables, in network namespaces (root): ARGS="--jobs 100 --faults 50 --seed 7".
faults:
	@deploy/setup python s3 docker images
	@$(BIN)/python -m tests.faults $(ARGS)

# Whole clusters in virtual time: SEEDS=N runs that many seeds, SEED=S tells one of them in full.
SEEDS ?= 2000
SEED ?=
.PHONY: simulate
simulate:
	@deploy/setup python
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

# Plants each known bug into a copy of the sources and says how many seeds find it: BUGS="keep-the-room" for some.
BUGS ?=
.PHONY: planted
planted:
	@deploy/setup python
	@$(BIN)/python -m tests.simulation.planted --seeds $(if $(filter command line,$(origin SEEDS)),$(SEEDS),200) $(BUGS)

# After a change of the dependencies in pyproject.toml. No address of an index is written into a lock.
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --extra devstack
lock: setup
	$(COMPILE) -o requirements.txt
	$(COMPILE) --group dev -c requirements.txt -o requirements-dev.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
