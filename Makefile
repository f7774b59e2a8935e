# make demo    the demo application, on a PostgreSQL of its own: ADDR=localhost:8081 for another port
# make test    all tests, of the library and of the modules beside it

ADDR ?= localhost:8080

# The library, and each nested module that needs nothing but Go and PostgreSQL.
MODULES := . $(patsubst %/go.mod,%,$(wildcard adapters/*/go.mod examples/go.mod interop/go.mod))

.PHONY: demo
demo: setup
	cd examples && go build -o ../bin/webapp ./webapp
	@DATABASE_URL= SESSION_KEYS= exec bin/webapp -addr $(ADDR)

.PHONY: test
test: setup
	@set -e; for module in $(MODULES); do \
		echo "go test ./... in $$module"; \
		(cd $$module && go test ./...); \
	done

# Makes sure that a PostgreSQL can be started.
.PHONY: setup
setup:
	@internal/pgtest/setup
