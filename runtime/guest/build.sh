#!/bin/sh
# The programs of the runtime, with the pinned Go toolchain: build.sh x86_64|aarch64
#
# A recipe of the pinned build root filesystem (dash, no network, working directory /build).
# Reads /in/go.tar (the toolchain) and /in/runtime/ (this Go module); writes
# /out/cage-guest and /out/cage-init: static, without build ids, paths or version control stamps.
set -eu

fail() {
	echo "build.sh: $*" >&2
	exit 1
}

[ $# -eq 1 ] || fail "usage: build.sh x86_64|aarch64"
case $1 in
x86_64) export GOARCH=amd64 GOAMD64=v1 ;;
aarch64) export GOARCH=arm64 GOARM64=v8.0 ;;
*) fail "unknown architecture $1" ;;
esac

tar -xf /in/go.tar --no-same-owner

export GOROOT=/build/go GOOS=linux CGO_ENABLED=0
export GOTOOLCHAIN=local GOENV=off GOFLAGS=-mod=readonly GOPROXY=off GOSUMDB=off GOWORK=off
export GOVCS='*:off' GOPATH=/build/path GOCACHE=/build/cache GOTMPDIR=/tmp
cd /in/runtime
for program in cage-guest cage-init; do
	"$GOROOT/bin/go" build -p "$CAGEBUILD_JOBS" -trimpath -buildvcs=false \
		-ldflags='-s -w -buildid=' -o "/out/$program" "./cmd/$program"
done
