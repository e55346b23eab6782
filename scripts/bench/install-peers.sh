#!/usr/bin/env bash
# Puts the peers that the bench measures against into .tools/bench: borg, the newest on PyPI that this Python runs, and
# restic, the newest that Debian has. Leaves what is there already.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=$PWD/.tools/bench
mkdir -p "$tools"

if [[ ! -x $tools/venv/bin/borg ]]; then
    echo "bench: installing borg from PyPI (built here; needs a C compiler and OpenSSL's, lz4's, zstd's, xxhash's and acl's headers)"
    missing=()
    for package in pkg-config libssl-dev liblz4-dev libzstd-dev libxxhash-dev libacl1-dev; do
        dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
    done
    if ((${#missing[@]})); then
        if ((EUID)); then
            echo "bench: missing Debian packages, install them as root: ${missing[*]}" >&2
            exit 1
        fi
        apt-get install -y -q "${missing[@]}"
    fi
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/pip" install --quiet borgbackup
fi

if [[ ! -x $tools/restic ]]; then
    echo "bench: fetching restic from Debian unstable (the program alone; nothing is installed)"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    # The mirror this machine uses already; the one of security updates has no other suites.
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
    echo "deb $mirror sid main" >"$work/sources"
    apt=(-q -o "Dir::Etc::SourceList=$work/sources" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$work/lists"
        -o "Dir::Cache=$work/cache" -o Acquire::Languages=none -o APT::Sandbox::User=root)
    apt-get "${apt[@]}" update
    (cd "$work" && apt-get "${apt[@]}" download restic && dpkg-deb -x restic_*.deb unpacked)
    mv "$work/unpacked/usr/bin/restic" "$tools/restic"
fi

echo "bench: $("$tools/restic" version | head -n 1)"
echo "bench: $("$tools/venv/bin/borg" --version)"
