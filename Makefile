# Each recipe does its own set-up into $(VENV) and needs Python >= 3.11, git and make beforehand.
# CI runs the same recipes (.ci/run), so the two cannot differ.
#
#   make demo    the main job on a hub that comes with the project; ends with an image
#   make test    the test suite              (make test ARGS="tests/unit/store -k resume")
#                what takes minutes is left out (make test ARGS="-m slow" runs that alone)
#   make check   formatting, lint, layers, types, the bare wheel
#   make bench   the benchmarks, an hour; results in benchmarks/results
#   make docs    rewrites what is generated: docs/commands.md, the file table of ARCHITECTURE.md
#   make clean   removes what the recipes made, except $(VENV); make distclean removes that too

VENV ?= .venv
PYTHON ?=
WORKERS ?= 2
ARGS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready-for-zhcache

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check bench docs clean distclean \
    check-formatting check-lint check-layers check-types check-documents check-wheel

help:
	@sed -n 's/^#   \(make .*\)/\1/p' Makefile

setup: $(READY)

# The stamp lies inside the environment, so that deleting the one deletes the other.
$(READY): pyproject.toml constraints.txt
	@echo "==> setting up $(VENV) (first time: minutes, most of it PyTorch)"
	@python="$(PYTHON)"; \
	for candidate in "$$python" python3 python3.14 python3.13 python3.12 python3.11; do \
	    [ -n "$$candidate" ] && "$$candidate" -c \
	        'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	        && { python="$$candidate"; found=1; break; }; \
	done; \
	[ -n "$$found" ] || { echo "no Python >= 3.11 with venv found; name one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
	[ -x "$(BIN)/python" ] || "$$python" -m venv "$(VENV)"
	@# Dependency groups need pip 25.1, and the one an interpreter brings is often older.
	"$(BIN)/python" -m pip install --quiet --upgrade -c constraints.txt pip
	"$(BIN)/python" -m pip install --quiet -c constraints.txt --editable '.[all]' --group dev
	@touch "$(READY)"
	@echo "==> $(VENV) is ready"

demo: $(READY)
	@echo "==> demo: prefetch, kill -9, resume, load, an image from a Chinese prompt"
	"$(BIN)/python" examples/demo.py

test: $(READY)
	@echo "==> tests, $(WORKERS) at a time"
	@# Hundreds of daemons and commands start; with PYTHONDONTWRITEBYTECODE each would compile all
	@# modules anew.
	@"$(BIN)/python" -m compileall -q -j $(WORKERS) zhcache daemon examples tests/harness tests/simulators
	"$(BIN)/python" -m pytest -n $(WORKERS) --dist loadfile -m "not slow" $(ARGS)

# Side by side, the longest first; what each says comes in one piece.
CHECKS := check-types check-wheel check-layers check-documents check-lint check-formatting

check: $(READY)
	@$(MAKE) --no-print-directory --jobs $(WORKERS) --output-sync=target $(CHECKS)
	@echo "==> all checks passed"

check-formatting: $(READY)
	@echo "==> formatting"
	"$(BIN)/ruff" format --check .

check-lint: $(READY)
	@echo "==> lint"
	"$(BIN)/ruff" check .

check-layers: $(READY)
	@echo "==> layers"
	"$(BIN)/lint-imports"

check-types: $(READY)
	@echo "==> types"
	"$(BIN)/pyright"

check-documents: $(READY)
	@echo "==> generated documents"
	"$(BIN)/python" tests/repo/generate_docs.py --check

check-wheel: $(READY)
	@echo "==> the bare wheel"
	"$(BIN)/python" tests/repo/bare_wheel.py

# Written beside and moved: an interrupted run leaves the last result whole.
bench: $(READY)
	@for name in fetch sources resume footprint load sharing exec replicas parallel convert smallfiles gateway monitor chinese; do \
	    echo "==> benchmark: $$name"; \
	    "$(BIN)/python" -m benchmarks.$$name $(ARGS) > benchmarks/results/$$name.md.new \
	        && mv benchmarks/results/$$name.md.new benchmarks/results/$$name.md || exit 1; \
	done

docs: $(READY)
	"$(BIN)/python" tests/repo/generate_docs.py

clean:
	rm -rf .demo build dist .pytest_cache .ruff_cache .hypothesis .coverage .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean
	rm -rf "$(VENV)"
