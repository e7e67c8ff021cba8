#!/bin/sh
# Programs of the runtime, with the pinned Go toolchain: build.sh x86_64|aarch64 PROGRAM...
#
# A recipe of the pinned build root filesystem (dash, no network, working directory /build).
# Reads /in/go.tar (the toolchain) and /in/runtime/ (what the programs need of this Go module);
# writes /out/PROGRAM of each cmd/PROGRAM: static, without build ids, paths or version control stamps.
set -eu

fail() {
	echo "build.sh: $*" >&2
	exit 1
}

[ $# -ge 2 ] || fail "usage: build.sh x86_64|aarch64 PROGRAM..."
case $1 in
x86_64) export GOARCH=amd64 GOAMD64=v1 ;;
aarch64) export GOARCH=arm64 GOARM64=v8.0 ;;
*) fail "unknown architecture $1" ;;
esac
shift

tar -xf /in/go.tar --no-same-owner

export GOROOT=/build/go GOOS=linux CGO_ENABLED=0
export GOTOOLCHAIN=local GOENV=off GOFLAGS=-mod=readonly GOPROXY=off GOSUMDB=off GOWORK=off
export GOVCS='*:off' GOPATH=/build/path GOCACHE=/build/cache GOTMPDIR=/tmp
cd /in/runtime
for program in "$@"; do
	"$GOROOT/bin/go" build -p "$CAGEBUILD_JOBS" -trimpath -buildvcs=false \
		-ldflags='-s -w -buildid=' -o "/out/$program" "./cmd/$program"
done
