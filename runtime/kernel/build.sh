#!/bin/sh
# Build the kernel of an enclave: build.sh x86_64|aarch64
#
# Inputs   /in/linux-source.deb   Debian's package linux-source-6.12
#          /in/kernel.config      the architecture's fragment
# Output   /out/kernel            x86_64: bzImage, aarch64: Image
#
# Started in an empty folder of its own, with CAGEBUILD_JOBS and SOURCE_DATE_EPOCH in the environment.
set -eu

case $1 in
x86_64)
    export ARCH=x86_64
    target=bzImage image=arch/x86/boot/bzImage
    ;;
aarch64)
    export ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu-
    target=Image image=arch/arm64/boot/Image
    ;;
*)
    echo "build.sh: $1: expected x86_64 or aarch64" >&2
    exit 2
    ;;
esac

# What would else be read from the machine and the clock, and written into the kernel.
KBUILD_BUILD_TIMESTAMP=$(date -u -d "@$SOURCE_DATE_EPOCH")
export KBUILD_BUILD_TIMESTAMP
export KBUILD_BUILD_VERSION=1 KBUILD_BUILD_USER=cagebuild KBUILD_BUILD_HOST=cagebuild
export LOCALVERSION=

# The root filesystem was unpacked without scripts of packages: the link to an awk is missing.
mkdir bin linux
ln -s /usr/bin/gawk bin/awk
PATH=$PWD/bin:$PATH
cd linux

# Code that no option of ours builds, a third of the source, stays packed. Kconfig files of all folders are read.
dpkg-deb --fsys-tarfile /in/linux-source.deb |
    tar -xO --wildcards './usr/src/linux-source-*.tar.xz' |
    tar -xJ --strip-components=1 --anchored --wildcards \
        --exclude='*/Documentation/*/*' --exclude='*/arch/*/boot/dts/*.dts*' \
        --exclude='linux-source-*/drivers/gpu/*.[ch]' \
        --exclude='linux-source-*/drivers/media/*.[ch]' \
        --exclude='linux-source-*/drivers/net/*/*.[ch]' \
        --exclude='linux-source-*/sound/*.[ch]'

run() {
    make --no-print-directory HOSTCC=gcc "$@"
}

run KCONFIG_ALLCONFIG=/in/kernel.config allnoconfig

# Kconfig drops what it doesn't know and what a dependency forbids, without a word. Neither may happen to a
# line of the fragment, nor to one that turns something off: a renamed option would be on again.
find . -name 'Kconfig*' -exec awk '$1 ~ /^(menu)?config$/ { print $2 }' {} + >../options
awk '
    FILENAME == "../options" { known["CONFIG_" $1] = 1; next }
    { name = "" }
    match($0, /^CONFIG_[A-Za-z0-9_]+=/) {
        name = substr($0, 1, RLENGTH - 1)
        value = substr($0, RLENGTH + 1)
    }
    /^# CONFIG_[A-Za-z0-9_]+ is not set$/ { name = $2; value = "n" }
    name == "" { next }
    FILENAME == ".config" { result[name] = value; next }
    !(name in known) {
        print "build.sh: " name ": the source has no such option" > "/dev/stderr"
        bad = 1
        next
    }
    {
        got = name in result ? result[name] : "n"
        if (got != value) {
            print "build.sh: " name ": got " got ", expected " value > "/dev/stderr"
            bad = 1
        }
    }
    END { exit bad }
' ../options .config /in/kernel.config

run -j"$CAGEBUILD_JOBS" "$target"
cp "$image" /out/kernel
