# Sourced by the scripts here: finds the checkout, installs what is missing, builds.
#
# A bare Debian 12 with gcc and rustup's toolchain is enough to begin with. Nothing is installed that is there
# already; without root or apt-get, what is missing is named and nothing is tried. All messages go to stderr.

set -euo pipefail
TWINPATH_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$TWINPATH_ROOT"
if [ -d "${HOME:-/root}/.cargo/bin" ]; then PATH="${HOME:-/root}/.cargo/bin:$PATH"; fi
PATH="$PATH:/usr/sbin:/sbin"

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

# What shows that a package is there : the package.
BUILD_NEEDS="pkg-config:pkg-config cc:gcc /usr/include/stdio.h:libc6-dev clang:clang libdpdk:libdpdk-dev
             libclang:libclang-dev"
LAB_NEEDS="ip:iproute2 nft:nftables ethtool:ethtool sysctl:procps ping:iputils-ping curl:curl jq:jq tcpdump:tcpdump
           keepalived:keepalived /usr/lib/frr/bgpd:frr /usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1:libfaketime
           /usr/bin/python3:python3"
# For looking around by hand in the lab; nothing here fails without them.
HAND_NEEDS="iperf3:iperf3 nc:netcat-openbsd"

present() {
    case $1 in
        libclang) compgen -G "/usr/lib/llvm-*/lib/libclang*.so*" >/dev/null ;;
        libdpdk) pkg-config --exists libdpdk 2>/dev/null ;;
        /*) [ -e "$1" ] ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

# need LIST…: every package of the lists is there afterwards, or the script has ended with a message.
need() {
    local missing=() entry log
    # shellcheck disable=SC2048  # the lists are words
    for entry in $*; do
        present "${entry%%:*}" || missing+=("${entry#*:}")
    done
    if [ ${#missing[@]} -eq 0 ]; then return; fi
    command -v apt-get >/dev/null || die "missing: ${missing[*]} (names of Debian's packages): install them"
    [ "$(id -u)" = 0 ] || die "missing: ${missing[*]}: as root, apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    log=$(mktemp)
    if ! { DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
           DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
           >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "apt-get could not install ${missing[*]}"
    fi
    rm -f "$log"
}

need_rust() {
    command -v cargo >/dev/null || die "cargo is missing: install Rust 1.90 or later with https://rustup.rs"
}

need_root() {
    [ "$(id -u)" = 0 ] || die "namespaces need root"
}

# build_lab: the programs in target/lab, optimised enough to carry traffic, with assertions on.
build_lab() {
    if [ -n "${TWINPATH_BIN:-}" ]; then return; fi
    need_rust
    need "$BUILD_NEEDS"
    say "building (profile lab)"
    cargo build --quiet --locked --profile lab -p twinpath -p twinpathctl --bin twinpath-dataplane --bin twinpath-control --bin twinpathctl --bin twinpath-bench >&2 || die "the build failed"
}
