# `make help` lists the commands. All of them install what is missing first (scripts/setup.sh).
.DEFAULT_GOAL := help
PYTHON_RUN := .venv/bin/python
PROGRAMS := shadowserved shadowctl _core shadowserved_control_path
CC_SOURCES = $(shell git ls-files '*.cc' '*.h')

.PHONY: setup build programs test sanitize soak demo lint format tidy fuzz clean help

setup: ## install packages and the virtual environment (quick when nothing changed)
	@scripts/setup.sh

build: setup ## build everything: programs, tests, benches, Python extension
	@scripts/build.sh release

programs: setup ## build only what runs: shadowserved, shadowctl, Python extension
	@scripts/build.sh release $(PROGRAMS)

test: setup ## all tests: checks, C++, sanitizers, fuzzers, Python, a real vLLM
	@$(PYTHON_RUN) scripts/run_tests.py

sanitize: setup ## only the C++ tests under ASan+UBSan and TSan, and the fuzzers
	@$(PYTHON_RUN) scripts/run_tests.py --only asan,tsan,fuzz

soak: programs ## the long runs: SOAK_REQUESTS (100000), SOAK_SEED (1), SOAK_STORE (a URL), SOAK_VLLM (300)
	@scripts/build.sh release soak_driver
	@$(PYTHON_RUN) scripts/soak.py --requests $(or $(SOAK_REQUESTS),100000) --seed $(or $(SOAK_SEED),1) \
	  --vllm $(or $(SOAK_VLLM),300) $(if $(SOAK_STORE),--store '$(SOAK_STORE)')

demo: programs ## the main job on a real vLLM; writes out/demo/report.json and report.png
	@$(PYTHON_RUN) scripts/demo.py

lint: setup ## the quick checks: ruff, mypy, layers, clang-format
	@$(PYTHON_RUN) scripts/run_tests.py --only lint

format: setup ## format C++ and Python in place
	@clang-format-14 -i $(CC_SOURCES)
	@.venv/bin/ruff format -q .
	@.venv/bin/ruff check -q --fix .

# With the `debug` preset's commands: each source alone. The others compile several as one.
tidy: setup ## clang-tidy over all C++ sources (slow)
	@scripts/build.sh debug ss_control_proto
	@git ls-files 'src/*.cc' | xargs -P 2 -n 8 clang-tidy-14 -p build/debug --quiet

fuzz: setup ## every fuzzer for SECONDS (60)
	@$(PYTHON_RUN) scripts/run_tests.py --only fuzz --fuzz-seconds $(or $(SECONDS),60)

clean: ## remove build folders and outputs; .venv stays
	@rm -rf build out python/shadowserve/_core*.so

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12
