# `make demo` and `make test` are all the set-up there is: both make .venv first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := conf manifests models pipeline stages

.PHONY: demo demo-model test chromium fuzz lint types bench-decode bench-embed bench-index bench-jpeg bench-scale bench-score bench-search bench-serve results clean

demo: $(VENV)/installed
	$(BIN)/clip2video-pipe make-clips data/demo
	$(BIN)/clip2video-pipe run conf/demo.yaml
	$(BIN)/clip2video-pipe pairs conf/demo.yaml data/demo/test-pairs.jsonl
	$(BIN)/clip2video-pipe search conf/demo.yaml "an orange cross is going round and round" -k 3

test: lint types chromium
	$(BIN)/pytest -n 2  # there are two cores; tests/conftest.py says which tests stay together

# Tests that look at pages need a browser; where none can be installed they skip, and say so.
chromium:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
		&& timeout 300 apt-get install --quiet --quiet --yes --no-install-recommends chromium >/dev/null; } || true

fuzz: $(VENV)/installed
	$(BIN)/python tests/chaos/fuzz.py

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# mypy cannot see through an editable install: it is given the packages under the name they are imported by.
types: $(VENV)/installed
	@mkdir -p .types/clip2video_pipe
	@for package in $(PACKAGES); do ln -sfn ../../$$package .types/clip2video_pipe/$$package; done
	cd .types && ../$(BIN)/mypy --config-file ../pyproject.toml -p clip2video_pipe

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .types build *.egg-info

bench-decode: $(VENV)/installed
	$(BIN)/python -m benchmarks.decode

bench-embed: $(VENV)/installed
	$(BIN)/python -m benchmarks.embed

bench-index: $(VENV)/installed
	$(BIN)/python -m benchmarks.index

bench-jpeg: $(VENV)/installed
	$(BIN)/python -m benchmarks.jpeg

bench-scale: $(VENV)/installed
	$(BIN)/python -m benchmarks.scale

bench-score: $(VENV)/installed
	$(BIN)/python -m benchmarks.score

bench-search: $(VENV)/installed
	$(BIN)/python -m benchmarks.search

bench-serve: $(VENV)/installed
	$(BIN)/python -m benchmarks.serve

demo-model: $(VENV)/installed
	$(BIN)/python -m benchmarks.demo_model

results: $(VENV)/installed
	$(BIN)/python -m benchmarks.results
