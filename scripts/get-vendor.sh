#!/usr/bin/env bash
# Brings static/vendor from npm packages. Run by hand when a version changes; the result is committed.
set -euo pipefail
cd "$(dirname "$0")/.."
htmx=4.0.1 tabler=1.6.1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
npm install --silent --no-audit --no-fund --prefix "$tmp" "htmx.org@$htmx" "@tabler/core@$tabler"
mods=$tmp/node_modules
# Source maps are not shipped; without this line browsers ask for them.
sed '/sourceMappingURL/d' "$mods/@tabler/core/dist/css/tabler.min.css" >static/vendor/tabler.min.css
cp "$mods/htmx.org/dist/htmx.min.js" "$mods/htmx.org/dist/ext/hx-sse.min.js" static/vendor/
cp "$mods/htmx.org/LICENSE" static/vendor/htmx.LICENSE
ls -l static/vendor
