# make run      build, and see the demonstration
# make test     all tests; says what was skipped and why
# make bench    the benchmarks, each beside its floor or peer
# make transparency  what tasks see of a freeze, a table (docs/transparency.md)
# make programs  which real programs checkpoints carry, a table (docs/checkpoint.md)
# make install  programs, man pages, completions and mount.freezer

PREFIX  ?= /usr/local
DESTDIR ?=
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOFLAGS += -trimpath
LDFLAGS  = -s -w -X main.version=$(VERSION)

.PHONY: build run test bench transparency programs install clean

build:
	CGO_ENABLED=0 go build $(GOFLAGS) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

run: build
	bin/freezer demo

test:
	scripts/test

bench:
	scripts/bench

transparency:
	go run ./transparency

programs:
	FREEZER_TABLE=1 go test -count=1 -run TestProgramsAreCarried ./checkpoint

install: build
	scripts/install '$(DESTDIR)' '$(PREFIX)'

clean:
	rm -rf bin
