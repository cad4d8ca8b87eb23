# `make` lists the targets. CI runs .ci/run, which calls the same commands.
.DEFAULT_GOAL := help
GO ?= go

## help: List the targets.
.PHONY: help
help:
	@sed -n 's/^## \([a-z-]*\): /\1\t/p' $(MAKEFILE_LIST) | sort | expand -t 14

## build: Build the program as ./sluice.
.PHONY: build
build:
	CGO_ENABLED=0 $(GO) build -trimpath -o sluice .

## test: Run every test. Tests that need root or a missing tool say so and skip.
.PHONY: test
test:
	$(GO) test ./...

## race: Run every test under the race detector.
.PHONY: race
race:
	$(GO) test -race ./...

## integration: Run the black-box tests with real clients only.
.PHONY: integration
integration:
	$(GO) test -count=1 -v ./integration/...

## fuzz: Run each fuzz target for a few seconds (FUZZTIME=10s).
.PHONY: fuzz
fuzz:
	.ci/fuzz $(or $(FUZZTIME),10s)

## bench: Run the benchmarks, then the gateway beside haproxy and squid.
.PHONY: bench
bench:
	$(GO) test -run '^$$' -bench . -benchmem ./policy ./gateway/...
	$(GO) run ./integration/bench

## lint: Run the linters.
.PHONY: lint
lint:
	golangci-lint run ./...

## image: Build the container image as out/sluice.tar, without docker.
.PHONY: image
image:
	$(GO) run ./deploy/container/build --tarball out/sluice.tar

## check: What to run before a commit: format, vet, lint, tests.
.PHONY: check
check:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(MAKE) lint test
