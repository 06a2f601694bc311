# Each target makes the environment .venv first, or sees in a moment that it is ready.
# The commands behind them are in the README, for those without make.

.DEFAULT_GOAL := help
.PHONY: help setup book test lab execute bench weights data matrix faults mutants oldest newest address release course grade marks clean distclean
# Targets given together run one after the other.
.NOTPARALLEL:

CHAPTERS ?=
FORCE ?=
ARGS ?=
DIR ?=
SET ?=
SETTINGS ?=
ENV_PYTHON := .venv/bin/python

help:
	@echo 'make book       build the site and say where it is'
	@echo 'make test       run every test, every chapter and the build'
	@echo 'make lab        open the chapters in JupyterLab'
	@echo 'make execute    run the chapters again, in place; CHAPTERS="book/03_elbo.ipynb" for some,'
	@echo '                FORCE=1 to replace outputs even if they say the same'
	@echo 'make bench      measure speed, quality and memory; ARGS=--write puts the table into the book'
	@echo 'make weights    train the reference weights again'
	@echo 'make data       fetch MNIST and say where it is'
	@echo 'make matrix     run every chapter with other kernels, threads, versions, precision, device;'
	@echo '                ARGS="--rows avx2 cuda" for some'
	@echo 'make faults     plant faults one at a time and see whether running the chapters notices'
	@echo 'make mutants    break the library in small ways and see whether the unit tests notice'
	@echo 'make oldest     run the unit tests with the oldest versions allowed, in .venv-oldest'
	@echo 'make newest     rewrite constraints.txt with the newest versions'
	@echo 'make address    set the address of the repository, and with it the launch buttons:'
	@echo '                URL=https://github.com/OWNER/REPOSITORY, or URL= for none'
	@echo 'make release    make the student versions of the problem sets from their sources'
	@echo 'make course     make an nbgrader course: DIR=folder, and SETTINGS=course.toml for a part'
	@echo 'make grade      grade what was handed in, each in a sandbox: DIR=folder SET=ps3'
	@echo 'make marks      grade every answer of tests/assignments with nbgrader and compare the marks'
	@echo 'make clean      remove what was built; make distclean also the environments'
	@echo
	@echo 'PYTHON=/path/to/python names the Python to make the environment with (3.11 to 3.14).'

# Any Python will do to start with: the script itself looks for one that is new enough.
define set_up
for python in $(PYTHON) python3 python; do \
	if "$$python" -c '' 2>/dev/null; then exec "$$python" tools/setup_env.py $(1); fi; \
done; \
echo 'set-up: Python 3.11 to 3.14 is needed, and there is none: install one, or name it with PYTHON=/path/to/python' >&2; \
exit 1
endef

setup:
	@$(call set_up)

book: setup
	@$(ENV_PYTHON) tools/build_book.py

# Whole files side by side, with one thread each, are sooner done than one after the other with all
# threads. Three, also on two cores, since some wait for a browser or for a time limit; and in the
# order of pyproject.toml, the chapters first, not by the number of tests: the longest file has few.
# The tests of the site build it too; the last line only says where it is.
test: data
	OMP_NUM_THREADS=1 $(ENV_PYTHON) -m pytest -n 3 --dist loadscope --no-loadscope-reorder
	@$(ENV_PYTHON) tools/build_book.py

lab: setup
	$(ENV_PYTHON) -m jupyter lab book

execute: data
	$(ENV_PYTHON) tools/execute.py $(if $(FORCE),--force) $(CHAPTERS)

bench: data
	$(ENV_PYTHON) tools/bench.py $(ARGS)

# These three keep what they found in _build and take up where they were stopped.
matrix: data
	$(ENV_PYTHON) tools/matrix.py $(ARGS)

faults: data
	$(ENV_PYTHON) tools/plant_faults.py --resume tools/faults.jsonl $(ARGS)

mutants: data
	$(ENV_PYTHON) tools/mutate.py --resume $(ARGS)

weights: data
	$(ENV_PYTHON) tools/make_weights.py

data: setup
	@$(ENV_PYTHON) -m vae_lib

oldest:
	@$(call set_up,--oldest)
	.venv-oldest/bin/python -m pytest -W default tests

newest: setup
	$(ENV_PYTHON) tools/newest_pins.py

address: setup
	@$(ENV_PYTHON) tools/address.py $(if $(findstring command,$(origin URL)),"$(URL)",--check)

release: setup
	@$(ENV_PYTHON) tools/course.py release

course: setup
	@test -n "$(DIR)" || { echo 'make course: name the folder, DIR=...' >&2; exit 1; }
	@$(ENV_PYTHON) tools/course.py new "$(DIR)" $(if $(SETTINGS),--settings "$(SETTINGS)")

grade: data
	@test -n "$(DIR)" -a -n "$(SET)" || { echo 'make grade: name the course, DIR=..., and the set, SET=ps3' >&2; exit 1; }
	@$(ENV_PYTHON) tools/grade.py "$(DIR)" $(SET) $(ARGS)

marks: data
	$(ENV_PYTHON) tools/marks.py $(ARGS)

clean:
	rm -rf _build build *.egg-info .pytest_cache .hypothesis
	find book tests tools vae_lib -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
	@echo 'The environment .venv is kept, and so is MNIST; make distclean removes the former.'

distclean: clean
	rm -rf .venv .venv-*
