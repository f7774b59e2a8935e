# make demo              the demo application, on a PostgreSQL of its own: ADDR=localhost:8081 for another port
# make test              all tests, of the library and of the modules beside it
#
# make torture           random operations under faults, then browsers that collide; every history checked: DURATION=10m SEED=42 to replay a run
# make test-citus        the library's tests on a table that Citus distributes, if this machine's PostgreSQL has it
# make bench             benchmarks beside other libraries: BENCH=Store, ROUNDS=2, BEFORE=/another/checkout; see bench/README.md
# make lint              gofmt, go vet and staticcheck in every module, actionlint
# make help              this list
# make ci                all of the above tests on a Debian machine, as root

ADDR ?= localhost:8080

# The library, and each nested module that needs nothing but Go and PostgreSQL.
MODULES := . $(patsubst %/go.mod,%,$(wildcard cmd/*/go.mod adapters/*/go.mod adapters/*/internal/*/go.mod examples/go.mod interop/go.mod))

.PHONY: help
help:
	@sed -n '/^# make /s/^# //p' Makefile

.PHONY: demo
demo:
	@[ -n "$$DATABASE_URL" ] || internal/pgtest/setup
	@[ -x bin/webapp ] || echo "building the demo: the first time takes a minute or more, and may download some 50 modules"
	@cd examples && go build -o ../bin/ ./webapp ./withpostgres
	@exec bin/withpostgres bin/webapp -addr $(ADDR)

.PHONY: test
test: setup
	@set -e; for module in $(MODULES); do \
		echo "go test ./... in $$module"; \
		(cd $$module && go test ./...); \
	done
	@echo "all tests passed, in $(words $(MODULES)) modules"

.PHONY: test-citus
test-citus:
	export PGSESSION_TEST_SERVER=citus PGSESSION_TEST_AFTER_INIT="SELECT create_distributed_table('%s', 'key')" && \
		go test -timeout 60m . ./internal/test/... ./pgsessiontest/... && cd cmd/pgsession && go test .

# Makes sure that a PostgreSQL can be started.
.PHONY: setup
setup:
	@internal/pgtest/setup

DURATION ?= 1m
SEED ?= 0

.PHONY: torture
torture: setup
	cd internal/torture && go run . -duration $(DURATION) -seed $(SEED) && go run ./web -duration $(DURATION) -seed $(SEED)

.PHONY: bench
bench: setup
	@bench/run $(ARGS)

.PHONY: tools
tools:
	@mkdir -p bin; GOBIN=$(CURDIR)/bin go install honnef.co/go/tools/cmd/staticcheck@v0.8.2 && \
		GOBIN=$(CURDIR)/bin go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

# The modules are checked with the build tags of the tests that need more than Go and PostgreSQL.
.PHONY: lint
lint: tools
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "gofmt would change: $$files"; exit 1; }
	@set -e; for module in $$(find . -name go.mod -not -path './.git/*' -printf '%h\n' | sort); do \
		echo "vet and staticcheck in $$module"; \
		(cd $$module && go vet -tags browser,pgbouncer,peers ./... && $(CURDIR)/bin/staticcheck -tags browser,pgbouncer,peers ./...); \
	done
	@bin/actionlint

.PHONY: ci
ci:
	.ci/run
