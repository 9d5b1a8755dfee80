# Everything a developer does here. `make` alone lists it; `make test` is what has to be green.

VENV   := .venv
PYTHON := $(VENV)/bin/python
PYTEST := $(PYTHON) -m pytest

# Programs of ours that stand outside the package use the tests' broker.
RUN := PYTHONPATH=. $(PYTHON)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(VENV)/installed ## The virtual environment in .venv, with the versions of constraints.txt

# A venv that does not run any more (its Python was removed, the folder was moved) is made anew. pip and setuptools come first,
# for the build of the package itself uses them as they are installed, at the pinned versions.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c '' 2>/dev/null || { python=$$(tests/support/need python) && "$$python" -m venv --clear $(VENV); }
	$(PYTHON) -m pip install -q -c constraints.txt pip setuptools wheel
	$(PYTHON) -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

.PHONY: demo
demo: venv ## A swarm to watch for 20 s; needs no Kafka
	$(VENV)/bin/swarmctl demo

.PHONY: check
check: venv ## Format, lint, types, unit tests: a minute, before each commit
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	@# supervisor/ and config/ install inside swarm, so types are checked on an installed tree; without what an
	@# earlier build has left behind, which setuptools would pack again.
	@rm -rf build/typed build/lib build/bdist.*
	$(PYTHON) -m pip install -q --no-deps --no-build-isolation --target build/typed .
	@# Types beside the unit tests: they take 20 s of one core.
	MYPYPATH=build/typed:. $(PYTHON) -m mypy -p swarm -p tests & types=$$!; \
	$(PYTEST) -q -n 2 tests/unit; units=$$?; wait $$types && exit $$units

.PHONY: docs
docs: venv ## The tables of docs/events-and-metrics.md, made anew from the code
	@$(RUN) -m tests.support.catalogue

# Scenarios of what the daemon explains (doctor, audit, memory, why, secrets in all of it): ten minutes of their own.
EXPLAINING := $(addprefix tests/scenarios/,doctor explanations looking memory \
	instruments/test_planted_secrets_appear_nowhere.py \
	supervision/test_why_says_what_holds_each_partition_up.py \
	supervision/test_why_needs_no_help_of_a_worker_that_is_stuck.py \
	supervision/test_a_worker_is_debugged_for_a_while_and_logs_more.py)
# Reloads without a broker, and the pytest plugin with applications of its own: they start dozens of daemons. Whatever has brokers of its own
# that die, three of them or one. And who comes and goes under load with every strategy.
LONGER := $(addprefix tests/process/,test_reload_executes_the_supervisor_in_place.py test_pytest_plugin.py test_testing_examples.py) \
	$(addprefix tests/scenarios/,test_flights_totals_agree_after_two_kills.py \
	errors/test_a_partition_leader_that_disappears_costs_no_message.py \
	semantics/test_exactly_once_holds_while_brokers_die.py \
	rebalancing/test_members_come_and_go_and_every_promise_holds.py \
	supervision/test_a_worker_whose_client_fails_again_and_again_is_replaced.py)
APART := tests/unit tests/systemd tests/image tests/manifests tests/prometheus $(EXPLAINING) $(LONGER)

.PHONY: test
test: check kafka ## Check, then processes and scenarios on a real Apache Kafka
	$(PYTEST) -n 2 --dist loadgroup tests $(addprefix --ignore=,$(APART))

.PHONY: test-explaining
test-explaining: venv kafka ## Faults of every kind on a real Apache Kafka, and what doctor, audit, why and memory say of them
	$(PYTEST) -n 2 --dist loadgroup $(EXPLAINING)

.PHONY: test-longer
test-longer: venv kafka ## Reloads and what may go wrong in them; the pytest plugin; brokers that die; members that come and go
	$(PYTEST) -n 2 --dist loadgroup $(LONGER)

.PHONY: test-systemd
test-systemd: venv kafka ## The unit file on a systemd that is really booted, in a folder; as root
	@tests/support/need systemd
	$(PYTEST) -v tests/systemd

.PHONY: test-image
test-image: venv ## The image, really built from the Dockerfile (no registry is asked) and run as PID 1; as root
	@tests/support/need image
	$(PYTEST) -v tests/image

.PHONY: test-manifests
test-manifests: venv ## The Kubernetes manifests against schemas
	$(PYTHON) -m pip install -q --upgrade --target build/manifests -c constraints.txt kubernetes-validate pyyaml
	PYTHONPATH=build/manifests $(PYTEST) -q tests/manifests

.PHONY: test-prometheus
test-prometheus: venv kafka ## Dashboard and alerts against a real Prometheus that scrapes a live swarm
	@tests/support/need prometheus
	$(PYTHON) -m pip install -q --upgrade --target build/prometheus -c constraints.txt pyyaml
	PYTHONPATH=build/prometheus $(PYTEST) -q tests/prometheus

.PHONY: scenarios
scenarios: venv kafka ## Scenarios on a real Apache Kafka; AREA=name: one folder or file of tests/scenarios
	$(PYTEST) tests/scenarios/$(AREA)

.PHONY: example
example: venv kafka ## The flights example whole: 336,776 messages, two kills on the way, exact totals
	$(RUN) examples/flights/run.py --all

.PHONY: chaos
chaos: venv kafka ## Accidents on three real brokers for SECONDS=600 with SEED=1, then a balance
	$(RUN) tests/chaos/run.py --seconds $(or $(SECONDS),600) --seed $(or $(SEED),1) $(if $(RATE),--rate $(RATE)) $(if $(CATCH_UP),--catch-up $(CATCH_UP))

.PHONY: soak
soak: venv kafka ## Workers that leak, hang, crash and stall for SECONDS=1800, and what their supervisor holds
	$(RUN) tests/soak/run.py --seconds $(or $(SECONDS),1800)

.PHONY: test-many
test-many: venv kafka ## 64 workers (WORKERS=64) start, report, restart one by one and stop; what they cost at rest
	$(RUN) tests/many/run.py --workers $(or $(WORKERS),64)

.PHONY: simulation
simulation: venv ## Tens of thousands of random histories of the pure parts; SCHEDULES=5000 of each kind; other examples than `make check`
	SWARM_SCHEDULES=$(or $(SCHEDULES),5000) HYPOTHESIS_PROFILE=random $(PYTEST) -q -n 2 tests/unit

.PHONY: scale
scale: venv ## What deaths and rollouts cost two thousand workers on a hundred hosts, simulated; are the tables of docs/scale.md these?
	@$(RUN) -m tests.support.fleet

.PHONY: bench
bench: venv kafka peers ## Everything of docs/benchmarks.md, some 25 minutes; writes benchmarks/results and the README's table
	$(RUN) benchmarks/run.py --save

.PHONY: bench-quick
bench-quick: venv kafka ## A minute: fails where ratios to the bare client, or counted calls, show a clear loss
	$(RUN) benchmarks/run.py --quick

.PHONY: bench-report
bench-report: venv ## The tables and plots of the saved results anew, measuring nothing
	$(RUN) benchmarks/run.py --report

# One each, for what they depend on excludes each other. One that cannot be had does not end the benchmarks: it is named there.
.PHONY: peers
peers: venv ## The other consumers that benchmarks compare with, in build/peers, at the versions of benchmarks/peers
	@for list in benchmarks/peers/*.txt; do \
		peer=build/peers/$$(basename $$list .txt); \
		cmp -s $$list $$peer/installed && continue; \
		echo "$$peer"; \
		{ $(PYTHON) -m venv --clear --without-pip $$peer \
			&& $(PYTHON) -m pip --python $$peer/bin/python install -q --no-deps -r $$list \
			&& cp $$list $$peer/installed; } || { echo "$$peer could not be installed" >&2; rm -rf $$peer; }; \
	done

.PHONY: broker
broker: venv kafka ## A real Apache Kafka on port 9092 (or PORT=…), until ^C
	$(RUN) -m tests.support.kafka --port $(or $(PORT),9092)

.PHONY: kafka
kafka: venv
	@tests/support/need kafka
	@$(RUN) -m tests.support.kafka --install

.PHONY: clean
clean: ## Removes all that was made here, the virtual environment too
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
