# shellcheck shell=bash
# Sourced: an apt of its own for suites of Debian other than the system's. It takes nothing from the system's
# but the mirror, and changes nothing of it. apt checks Debian's signatures.

# The mirror of the system's own sources; Debian's where they have none of Debian's (Ubuntu).
mirror() {
    local found
    # shellcheck disable=SC2016 # apt's variables, not the shell's
    found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/*$' || true)
    [ -n "$found" ] || found=$(python3 -c 'import json; print(json.load(open("cagebuild/pins/debian.json"))["mirror"])')
    echo "$found"
}

# Makes it in a folder, with the lists of suites: `suites folder suite…`. Then `apt_of folder command…`.
suites() {
    local apt=$1 suite
    shift
    # apt's own user reads the keyring and writes the files.
    chmod 755 "$(dirname "$apt")"
    mkdir -p "$apt"/{lists/partial,cache/archives/partial,sources,preferences}
    : >"$apt/status"
    cp cagebuild/pins/debian-archive-keyring.gpg "$apt/debian.gpg"
    for suite in "$@"; do
        printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' \
            "$(mirror)" "$suite" "$apt/debian.gpg" >"$apt/sources/$suite.sources"
    done
    cat >"$apt/apt.conf" <<CONF
Dir::State "$apt";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$apt/sources";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "$apt/preferences";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Languages "none";
Acquire::Retries "3";
CONF
    if [ "$(id -u)" = 0 ] && getent passwd _apt >/dev/null; then
        chown -R _apt "$apt/lists/partial" "$apt/cache/archives/partial"
    fi
    apt_of "$apt" update
}

apt_of() {
    local apt=$1
    shift
    APT_CONFIG=$apt/apt.conf apt-get -qq "$@"
}
