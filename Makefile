# Two commands are enough: `make demo` and `make test`. Neither needs Docker, an account or a setting.

SHELL := /bin/bash
BIN   := bin

.PHONY: demo build test test-long bench lint clean

demo: build ## PostgreSQL, Kafka, a service, three relays, one killed; the verdict is the exit status
	@exec $(BIN)/baton demo

build: ## the binaries, into bin/
	@go build -o $(BIN)/ ./cmd/baton ./cmd/shop-order-api

test: ## everything, on a real PostgreSQL and, where Java and Maven are, a real Kafka
	@exec .ci/test

test-long: ## the kill tests with more seeds, the long outages, every PostgreSQL version
	@BATON_LONG=1 exec .ci/test

bench: ## speed, CPU and allocations; docs/benchmarks.md says how to read them
	@exec .ci/bench

lint: ## what .ci/test checks first
	@exec .ci/lint

clean:
	@rm -rf $(BIN)
