# `make` shows what there is. Python 3.10 to 3.12, no root; variables: PYTHON, TORCH_ARGS, PIP_ARGS
# (see tools/make_venv.sh), PYTEST_ARGS.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv demo page gate test lint bench clean

export PYTHON TORCH_ARGS PIP_ARGS PYTEST_ARGS

INSTALLED := .venv/.installed

help:  ## Show this list.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

venv: $(INSTALLED)  ## Make .venv with everything that the other targets need.

$(INSTALLED): tools/make_venv.sh constraints.txt requirements-dev.txt backend/pyproject.toml client/pyproject.toml
	@tools/make_venv.sh

demo: venv  ## Serve a small voice of our own, speak three sentences into out/*.wav, stop.
	@.venv/bin/python tools/demo.py

page: venv  ## Demo voice, Triton and the gateway with its page: prints the address, serves until Ctrl-C.
	@.venv/bin/python tools/page.py

gate: venv  ## Is the demo voice understood? On every way to the listener.
	@.venv/bin/python tools/demo_voice/gate.py

test: lint  ## Linters, types and every test that this machine can run.
	@tools/run_tests.sh

lint: venv  ## Linters and types only.
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/yamllint --strict docker/compose.yaml deploy/helm/*.yaml deploy/helm/examples deploy/helm/files
	.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
	.venv/bin/check-jsonschema --check-metaschema deploy/helm/values.schema.json
	.venv/bin/hadolint docker/Dockerfile
	.venv/bin/shellcheck tools/*.sh .ci/run

bench: venv  ## Load test on this machine into out/bench.json and plots.
	@.venv/bin/python tools/bench.py

clean:  ## Remove what was made (build, out, caches), but not .venv.
	rm -rf build out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find backend client tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
