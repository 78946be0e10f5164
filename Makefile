# SmartScale: `make demo` shows it, `make test` proves it. Everything lives in .venv and .kafka below this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
KAFKA := .kafka/.ready
DEMO := .demo/$(shell date +%Y%m%d-%H%M%S)

.PHONY: help setup demo test lint check bench bench-peers soak kafka kafka-jars clean
help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

setup: $(READY) ## create .venv with the pinned dependencies, and compile the inner loops
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/smartscale compile
	@touch $@

demo: $(READY) ## the closed loop on a ramp, a burst and a fault: two minutes, ends by itself
	@mkdir -p $(DEMO)
	$(BIN)/smartscale up --config examples/demo.toml --scenario examples/scenarios/demo.yaml --speed 10 --check \
	  --log sqlite:$(DEMO)/log.db --directory $(DEMO)

# Most tests of real processes wait rather than compute, so two files run at a time.
test: $(READY) $(KAFKA) ## all tests, on a real Apache Kafka too
	$(BIN)/pytest -n 2 --dist loadfile --durations 15

lint: $(READY) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint ## lint, and the quick tests
	$(BIN)/pytest -m 'not kafka and not e2e and not slow'

bench: $(READY) ## every benchmark; results in benchmarks/results
	$(BIN)/python benchmarks/run.py

bench-peers: $(READY) $(KAFKA) ## the same windows by Quix Streams, Bytewax, Kafka Streams and Flink: fetches and builds them first
	$(BIN)/python benchmarks/peers/peers.py --set-up
	$(BIN)/python benchmarks/run.py peers

soak: $(READY) $(KAFKA) ## the long runs: the demo's load at the speed of the world, the replay at speed 1, and ten minutes of kill -9
	@mkdir -p $(DEMO)
	$(BIN)/smartscale up --config examples/demo.toml --scenario examples/scenarios/demo.yaml --speed 1 --check \
	  --log sqlite:$(DEMO)/log.db --directory $(DEMO)
	$(BIN)/pytest tests/soak -m soak
	SMARTSCALE_SOAK=1 $(BIN)/pytest -n 2 tests/fault/test_stream_simulation.py

kafka: $(READY) $(KAFKA) ## a local Apache Kafka in the foreground, at 127.0.0.1:9092
	$(BIN)/python -m smartscale.testing.kafka_broker --port 9092

kafka-jars: $(KAFKA) ## fetch Apache Kafka's jars into .kafka
$(KAFKA): tools/kafka/pom.xml
	mvn -q -B -f tools/kafka/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.kafka/libs
	@touch $@

clean: ## remove what was generated here
	rm -rf $(VENV) .kafka .peers benchmarks/peers/*/target .run .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
