#!/usr/bin/env bash
# What the integration tests find around them. nextest runs this before the first test of package `it` and gives the
# tests the variables written here, so `cargo nextest run -p it` works by itself once scripts/install.sh test has run.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
tests/guest/make-guest.sh
scripts/build-vcsim.sh
# `make test` has built the binary already, with the tests' own features; building it here again would undo that.
[[ ${STILLFRAME_BIN:-} ]] || cargo build --quiet --locked -p app
cat >>"$NEXTEST_ENV" <<EOF
STILLFRAME_BIN=${STILLFRAME_BIN:-$target/debug/stillframe}
STILLFRAME_GUEST=$target/guest/guest.raw
STILLFRAME_BOOT=$PWD/tests/guest/boot.py
STILLFRAME_VCSIM=$target/peers/vcsim
STILLFRAME_PYTHON=$PWD/.tools/venv/bin/python
EOF
