#!/usr/bin/env bash
# Installs what a fresh Debian 12 lacks; quiet and quick when nothing is missing.
#
#   scripts/install.sh run     what `make run` needs: a C compiler for the crates that build C, and PostgreSQL
#   scripts/install.sh test    also what the tests need: peers, an emulator, a browser, cargo's tools
#   scripts/install.sh debian  the Debian packages of both, and nothing else
#
# Needs root or sudo, and only when something is missing. Says what it installs. The Rust toolchain is yours to bring:
# Debian 12's is too old. Other systems: install the packages listed below under their own names and skip this script
# with STILLFRAME_SKIP_INSTALL=1.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-run}
readonly rust_minor=88 node_major=18
readonly venv=.tools/venv browser=tests/browser

# Debian's package lists, by what wants them.
run_packages=(
    ca-certificates git make
    gcc libc6-dev # aws-lc-sys and zstd-sys build C
    postgresql    # the private database server; no cluster of the system's own is made
)
test_packages=(
    qemu-system-x86 qemu-utils                                         # boots restored disks, reads our disk formats
    golang-go golang-github-vmware-govmomi-dev                         # vcsim, an independent vSphere
    kmod cpio gdisk e2fsprogs dosfstools mtools openssl python3        # tests/guest/make-guest.sh
    python3-venv tzdata                                                # pyvmomi, pypsrp, aiosmtpd, peers of the repository format and of schedules
    samba smbclient nfs-ganesha nfs-ganesha-vfs rpcbind util-linux     # servers of SMB and NFS locations
    chromium fonts-dejavu-core                                         # the browser journey
    curl                                                               # makes buckets for the tests of S3 storage
)
python_packages=(
    pyvmomi==9.1.1.0 blake3==1.0.11 zstandard==0.25.0 cryptography==50.0.2 argon2-cffi==25.1.0
    pyspnego==0.12.4 pypsrp==0.9.1 python-dateutil==4.0.0 aiosmtpd==1.4.6 prometheus-client==0.26.0
)
cargo_nextest=0.9.114 cargo_deny=0.20.2

say() { echo "install: $*"; }
die() { echo "install: $*" >&2; exit 1; }

as_root() {
    if ((EUID == 0)); then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "root or sudo is needed for: $*"; fi
}

check_rust() {
    command -v cargo >/dev/null && command -v rustc >/dev/null ||
        die "no Rust toolchain: install Rust 1.$rust_minor or newer with rustup (Debian 12's own is 1.63, too old)"
    local version minor
    version=$(rustc --version | cut -d' ' -f2)
    minor=${version#*.} minor=${minor%%.*}
    [[ $version == 1.* && $minor -lt $rust_minor ]] &&
        die "rustc $version is too old: Rust 1.$rust_minor or newer is needed; 'rustup update stable' brings it"
    return 0
}

installed() { [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# A server package makes and starts a cluster of the system's own unless told otherwise before it is installed.
keep_postgres_quiet() {
    local conf=/etc/postgresql-common/createcluster.conf
    [[ -e $conf ]] && return
    say "no system-wide PostgreSQL cluster will be made ($conf)"
    as_root mkdir -p "${conf%/*}"
    echo 'create_main_cluster = false' | as_root tee "$conf" >/dev/null
}

# Servers that tests start by themselves, with files of their own: none of the system's own is to run for them.
servers='^(samba|nfs-ganesha|rpcbind)$'
keep_servers_quiet() {
    local policy=/usr/sbin/policy-rc.d
    [[ -e $policy ]] && return
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
}

disable_servers() {
    [[ -d /run/systemd/system ]] || return 0
    local package units=()
    for package in "${missing[@]}"; do
        case $package in
        samba) units+=(smbd nmbd samba-ad-dc) ;;
        nfs-ganesha) units+=(nfs-ganesha nfs-ganesha-lock) ;;
        rpcbind) units+=(rpcbind.service rpcbind.socket) ;;
        esac
    done
    for package in "${units[@]}"; do as_root systemctl disable --quiet "$package" 2>/dev/null || true; done
}

# QEMU's packages must be of one version. Where one came from backports, apt would remove it for the other.
align_qemu() {
    local index version
    installed qemu-utils && ! installed qemu-system-x86 || return 0
    version=$(apt-cache policy qemu-system-x86 | sed -n 's/^ *Candidate: //p')
    [[ $(dpkg-query -W -f '${Version}' qemu-utils) == "$version" ]] && return
    for index in "${!missing[@]}"; do
        [[ ${missing[index]} == qemu-system-x86 ]] && missing[index]=qemu-system-x86=$version
    done
    missing+=("qemu-utils=$version")
}

install_packages() {
    local package
    missing=()
    for package in "$@"; do installed "$package" || missing+=("$package"); done
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || die "not a Debian system; these are missing: ${missing[*]}"
    # Where /dev/null is closed to others apt's unprivileged user cannot check signatures; root can, and does.
    local apt=(apt-get -qq -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0)
    say "updating the package lists"
    as_root "${apt[@]}" update
    align_qemu
    say "installing ${missing[*]}"
    printf '%s\n' "${missing[@]}" | grep -q '^postgresql' && keep_postgres_quiet
    local has_servers=
    printf '%s\n' "${missing[@]}" | grep -qE "$servers" && has_servers=1 && keep_servers_quiet
    local log
    log=$(mktemp)
    if ! as_root env DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends \
        --allow-downgrades "${missing[@]}" >"$log" 2>&1; then
        tail -n 30 "$log" >&2
        die "apt-get could not install them; the whole output is in $log"
    fi
    rm -f "$log"
    [[ $has_servers ]] && disable_servers
    return 0
}

install_node() {
    local major=0
    command -v node >/dev/null && major=$(node --version | sed 's/^v\([0-9]*\).*/\1/')
    if ((major == 0)); then
        install_packages nodejs npm
    elif ((major < node_major)); then
        die "node $major is too old: $node_major or newer is needed"
    elif ! command -v npm >/dev/null; then
        install_packages npm
    fi
}

install_node_modules() {
    local stamp=$browser/node_modules/.package-lock.json
    [[ -f $stamp && ! $browser/package-lock.json -nt $stamp ]] && return
    say "npm packages of $browser"
    (cd "$browser" && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --silent --no-audit --no-fund)
    touch "$stamp"
}

install_venv() {
    local stamp=$venv/installed wanted=${python_packages[*]}
    [[ -f $stamp && $(<"$stamp") == "$wanted" ]] && return
    say "Python packages into $venv: $wanted"
    rm -rf "$venv"
    /usr/bin/python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${python_packages[@]}"
    echo "$wanted" >"$stamp"
}

# Built once into cargo's own bin folder. Unoptimised: built in a third of the time, and fast enough.
install_cargo_tool() { # CRATE VERSION FEATURES
    cargo "${1#cargo-}" --version >/dev/null 2>&1 && return
    say "building $1 $2 into ${CARGO_HOME:-$HOME/.cargo}/bin (a few minutes, once)"
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --debug --config profile.dev.debug=0 \
        --no-default-features ${3:+--features "$3"} "$1@$2"
}

[[ ${STILLFRAME_SKIP_INSTALL:-} ]] && exit 0
check_rust
case $what in
run) install_packages "${run_packages[@]}" ;;
debian)
    install_packages "${run_packages[@]}" "${test_packages[@]}"
    install_node
    ;;
test)
    install_packages "${run_packages[@]}" "${test_packages[@]}"
    install_node
    install_node_modules
    install_venv
    scripts/fetch-radosgw.sh
    install_cargo_tool cargo-nextest "$cargo_nextest" default-no-update
    install_cargo_tool cargo-deny "$cargo_deny" ''
    ;;
*) die "unknown argument '$what'; use run, test or debian" ;;
esac
