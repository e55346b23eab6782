#!/usr/bin/env bash
# Puts the peers that the bench measures against into .tools/bench: borg, the newest on PyPI that this Python runs, and
# restic, the newest that the Go module proxy has, built with a Go from there. Leaves what is there already.
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
    echo "bench: building restic from the Go module proxy"
    work=$(mktemp -d)
    trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
    export GOPATH=$work/path GOCACHE=$work/cache GOFLAGS=-modcacherw GO111MODULE=on CGO_ENABLED=0
    platform=$(go env GOOS)-$(go env GOARCH)
    cd "$work"
    # The toolchain is a module as well, so that a distribution's older Go will do to begin with.
    newest=$(go list -m -versions golang.org/toolchain 2>/dev/null | tr ' ' '\n' | grep -E -- "-go1\.[0-9]+\.[0-9]+\.$platform\$" | sort -V | tail -n 1 || true)
    version=${GO_TOOLCHAIN_VERSION:-${newest:-v0.0.1-go1.25.3.$platform}}
    folder=$(go mod download -json "golang.org/toolchain@$version" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
    chmod -R +x "$folder/bin" "$folder/pkg/tool"
    export GOTOOLCHAIN=local GOROOT=$folder
    "$folder/bin/go" install github.com/restic/restic/cmd/restic@latest
    mv "$GOPATH/bin/restic" "$tools/restic"
fi

echo "bench: $("$tools/restic" version | head -n 1)"
echo "bench: $("$tools/venv/bin/borg" --version)"
