# What the scripts of this folder share; sourced, not run.
# shellcheck shell=bash

set -euo pipefail
# Modes, names, sorting and dates in packages don't depend on who makes them.
umask 022
export LC_ALL=C TZ=UTC

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=$(realpath -m "${CARGO_TARGET_DIR:-$root/target}")
# Scripts call each other in other folders, where a relative path would be another.
if [[ -n ${CARGO_TARGET_DIR-} ]]; then
    export CARGO_TARGET_DIR=$target
fi
# shellcheck disable=SC2034 # The scripts that source this file use these.
{
    # Tools of Cargo's. The path of cargo-auditable changes programs: Cargo hashes it into the crates of the workspace.
    tools=${SKD_TOOLS:-$target/tools}
    # Where packages are put.
    packages=$target/packages
    version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -1)
    programs=(skd skd-forward skd-tls skdctl)
}

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# Says what is missing, and how to get it.
need() {
    local command=$1 package=$2
    if ! PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null; then
        echo "'$command' is missing: apt-get install $package" >&2
        return 1
    fi
}

# Whether this is a checkout, and not an unpacked tarball, which may lie inside the checkout of something else.
is_checkout() {
    [[ -e $root/.git ]]
}

# Git in this checkout, which may belong to another user: its scripts are run here anyway.
checkout_git() {
    git -c safe.directory='*' -C "$root" "$@"
}

# The time of all files in packages: that of the commit, or of the newest entry of the changelog in a tarball.
if [[ -z ${SOURCE_DATE_EPOCH-} ]]; then
    if is_checkout; then
        # Without git, programs wouldn't have the commit in their version either.
        need git git
        SOURCE_DATE_EPOCH=$(checkout_git log -1 --format=%ct)
    else
        SOURCE_DATE_EPOCH=$(date --date "$(sed -n 's/^## \[[0-9.]*\] - //p' "$root/CHANGELOG.md" | head -1)" +%s)
    fi
fi
export SOURCE_DATE_EPOCH

# Installs a tool of Cargo's in the version that the packages were tried with, if it is missing, and puts it into PATH.
cargo_tool() {
    local name=$1 wanted=$2
    PATH=$tools/bin:$PATH
    if ! grep --quiet "^\"$name $wanted " "$tools/.crates.toml" 2>/dev/null; then
        cargo install --quiet --locked --force --debug --root "$tools" "$name@$wanted"
    fi
}
