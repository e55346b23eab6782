#!/usr/bin/env bash
# Builds the vcsim peer into target/peers/vcsim, or leaves it when it is newer than its source and the library.
# Debian's Go libraries lie in /usr/share/gocode, laid out for GOPATH: nothing is fetched.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${CARGO_TARGET_DIR:-target}/peers/vcsim
gocode=/usr/share/gocode
library=$gocode/src/github.com/vmware/govmomi
if [[ ! -d $library/simulator ]]; then
    echo "build-vcsim: the govmomi library is missing; run scripts/install.sh test" >&2
    exit 1
fi
if [[ -x $out && $out -nt tests/peers/vcsim/main.go && $out -nt $library/simulator && $out -nt scripts/build-vcsim.sh ]]; then
    echo "vcsim is up to date: $out"
    exit 0
fi
mkdir -p "$(dirname "$out")"
out=$(realpath "$out")
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
mkdir -p "$work/src/vcsim"
cp tests/peers/vcsim/main.go "$work/src/vcsim/"
cd "$work/src/vcsim"
# The compiler's cache goes with the rest of the build, so that a second checkout does not pay again.
export GO111MODULE=off GOFLAGS= GOPATH="$work:$gocode" GOCACHE="${out%/*}/go-cache" CGO_ENABLED=0
go build -trimpath -o "$out" .
echo "built $out"
