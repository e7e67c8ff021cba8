#!/bin/sh
# busybox for an enclave, from Debian's source package: build.sh x86_64|aarch64
#
# A recipe of the pinned build root filesystem (dash, no network, working directory /build).
# Reads /in/orig.tar.bz2 and /in/debian.tar.xz (Debian's), /in/cage.patch, /in/busybox.config and
# /in/links (of this folder); writes /out/busybox. The result depends on these and on Debian's gcc,
# binutils and libc only: not on the date, the host, the folder or the number of jobs.
set -eu

fail() {
	echo "build.sh: $*" >&2
	exit 1
}

[ $# -eq 1 ] || fail "usage: build.sh x86_64|aarch64"
case $1 in
x86_64)
	# Intel CET: indirect jumps land on marked instructions only.
	protection=-fcf-protection=full
	;;
aarch64)
	# The same, and signed return addresses.
	protection=-mbranch-protection=standard
	;;
*) fail "unknown architecture $1" ;;
esac
tool=$1-linux-gnu-

mkdir bin source
# The root filesystem has no alternatives, and the build system calls `awk`.
ln -s /usr/bin/gawk bin/awk
PATH=/build/bin:$PATH
export PATH

tar -xjf /in/orig.tar.bz2 -C source --strip-components=1 --no-same-owner
tar -xJf /in/debian.tar.xz -C source --no-same-owner
cd source

# "busybox (1:1.35.0-4+deb12u1) bookworm; …": said by `busybox`, so that it names its source.
version=$(sed -n '1s/^busybox (\([0-9A-Za-z.+:~-]*\)) .*/\1/p' debian/changelog)
[ -n "$version" ] || fail "debian/changelog does not begin with the version of busybox"

apply() {
	# No fuzz, no reversed patches, nothing that has to be asked.
	patch --batch --forward --fuzz=0 --strip=1 --no-backup-if-mismatch --input="$1"
}
sed -e 's/[[:space:]]*#.*//' -e '/^[[:space:]]*$/d' debian/patches/series >/build/series
while read -r name; do
	apply "debian/patches/$name"
done </build/series
apply /in/cage.patch

# No date in the generated headers.
KCONFIG_NOTIMESTAMP=1
export KCONFIG_NOTIMESTAMP

# What services write passes through this program for as long as the enclave lives. So it is built
# as Debian builds its own, and as a static program that is loaded at a random address.
flags="-fPIE -fstack-protector-strong -fstack-clash-protection -D_FORTIFY_SOURCE=2 $protection"
flags="$flags -ffile-prefix-map=/build=. -frandom-seed=cagebuild"
link="-static-pie -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack -Wl,-z,separate-code"
link="$link -Wl,--build-id=none"

build() {
	make -j "${CAGEBUILD_JOBS:-1}" CROSS_COMPILE="$tool" \
		BB_EXTRA_VERSION="Debian $version" CONFIG_EXTRA_CFLAGS="$flags" CFLAGS_busybox="$link" "$@"
}

# This kconfig's KCONFIG_ALLCONFIG turns nothing on. So: everything off, then the fragment's lines
# in the place of those. oldconfig asks for whatever is open then; without an answer it fails.
build allnoconfig >/dev/null
grep -E '^(CONFIG_|# CONFIG_.* is not set$)' /in/busybox.config >/build/wanted
sed 's/^# //; s/[= ].*//' /build/wanted >/build/names
[ -z "$(sort /build/names | uniq -d)" ] || fail "the fragment names an option twice"
sed -n 's/^\(# \)\{0,1\}\(CONFIG_[A-Za-z0-9_]*\)[= ].*/\2 &/p' .config >/build/all
grep -vwFf /build/names /build/all | cut -d ' ' -f 2- >/build/rest
cat /build/rest /build/wanted >.config
build oldconfig </dev/null >/build/oldconfig.log || {
	cat /build/oldconfig.log
	fail "an option is open"
}
while IFS= read -r line; do
	case $line in
	"# CONFIG_"*)
		name=${line#"# "}
		name=${name%" is not set"}
		! grep -q "^$name=" .config || fail "$name is set"
		;;
	*) grep -qxF -e "$line" .config || fail "the configuration does not hold $line" ;;
	esac
done </build/wanted
build busybox
build busybox.links

# The installer makes a link for each name in `links`; they must be the applets that are there.
sed 's,.*/,,' busybox.links | grep -vx busybox | sort >/build/found
diff /in/links /build/found || fail "the applets are not those of 'links'"

# glibc names each function of a static program that would load libraries at run time.
! grep ': warning: ' busybox_unstripped.out || fail "the linker warns"
readelf=${tool}readelf
! "$readelf" --program-headers --wide busybox | grep -q INTERP || fail "not a static program"
"$readelf" --file-header --wide busybox | grep -q 'DYN (' || fail "not position independent"
! "$readelf" --dynamic --wide busybox | grep -q NEEDED || fail "needs a library"
! "$readelf" --notes --wide busybox | grep -q 'Build ID' || fail "has a build id"
! grep -q "/build" busybox || fail "holds the path of the build"
install -m 0755 busybox /out/busybox
