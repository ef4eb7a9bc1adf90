# gophersnake: what a person or CI runs. `make help` lists it.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= 0.1.0
# gnet looks connections up by the kernel's word instead of a map: 3 to 6 % more requests a second.
export GOFLAGS = -tags=poll_opt
FUZZTIME ?= 30s

# With poll_opt gnet loads pointers that are not aligned, which a build with -race refuses.
UNALIGNED = -gcflags=github.com/panjf2000/gnet/v2/...=-d=checkptr=0

# The end-to-end tests start the binary and need the environments of scripts/venv.sh; every
# other test needs Go, a C compiler and a python3.
UNIT_PACKAGES = $$(go list ./... | grep --invert-match '/server/e2e$$')

.PHONY: run build test check race bench bench-check micro fuzz fault mutants clean help
.PHONY: need-build need-run need-test shim format vet unit c-test shell venvs

run: need-run build ## build everything and serve the demo app on http://127.0.0.1:8000
	exec bin/gophersnake demo

build: need-build shim ## build bin/gophersnake, one static binary
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" \
		-o bin/gophersnake ./server

test: need-test build venvs check ## set up what the tests need and run all of them (< 15 min)
	go test -count=1 -timeout=25m ./server/e2e

check: need-build format vet unit c-test shell ## formatting, vet, unit, C and shell checks (< 3 min)

race: need-build shim ## run the unit tests under the race detector
	CGO_ENABLED=1 go test -race $(UNALIGNED) -timeout=10m $(UNIT_PACKAGES)

bench: need-test build ## measure against other servers, make BENCHMARKS.md (BENCH=--help)
	$(MAKE) --no-print-directory --directory=pybridge/shim build/drive.so
	go build -o build/bench/bench ./bench
	build/bench/bench run $(BENCH)

bench-check: need-build shim ## compare allocations and instructions with the stored (UPDATE=1)
	$(MAKE) --no-print-directory --directory=pybridge/shim build/drive.so
	go run ./bench check $(if $(UPDATE),--update)

micro: need-build shim ## run the Go benchmarks
	go test -run='^$$' -bench=. -benchmem $(UNIT_PACKAGES)

fuzz: need-build shim ## run each fuzz target for FUZZTIME (30s)
	scripts/fuzz.sh "$(FUZZTIME)"

fault: need-test build venvs ## break things on purpose and see that only they break
	GOPHERSNAKE_FAULT=1 go test -count=1 -timeout=60m -run='^TestFault' ./loop ./server/e2e

mutants: need-build ## drop each check of the request parser and see that a test notices (20 min)
	go run ./scripts/mutants loop/http1

clean: ## remove everything that make made
	$(MAKE) --no-print-directory --directory=pybridge/shim clean
	rm --recursive --force bin build

help: ## list the targets
	@sed --quiet --regexp-extended 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' Makefile | \
		expand --tabs=20

need-build:
	@scripts/need.sh go cc

need-run:
	@scripts/need.sh go cc python

need-test:
	@scripts/need.sh go cc python venv

# The binary carries the shim, so it is made before anything that compiles Go.
shim: need-build
	$(MAKE) --no-print-directory --directory=pybridge/shim

format:
	@unformatted=$$(gofmt -l server loop pybridge bench); \
	if [[ -n "$$unformatted" ]]; then \
		echo "not formatted; run gofmt -w:" $$unformatted >&2; exit 1; \
	fi

vet: shim
	go vet ./...

unit: shim
	go test -timeout=150s $(UNIT_PACKAGES)

c-test: need-build
	$(MAKE) --no-print-directory --directory=pybridge/shim test

shell:
	@if command -v shellcheck >/dev/null; then \
		shellcheck scripts/*.sh .ci/run; \
	else \
		echo "shellcheck is not installed: shell scripts were not checked"; \
	fi

venvs: need-test
	scripts/venv.sh
