#!/usr/bin/env bash
# Unpacks Debian's Ceph object gateway into .tools/ceph: the S3 storage that tests are judged by. Nothing is installed,
# no service is made, root is not needed. apt checks every package against the signed index. Done once.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly tree=.tools/ceph packages=(radosgw ceph-mon ceph-osd)
# The tree holds what this machine lacked when it was made.
libraries() { find "$PWD/$tree" -name '*.so.*' -printf '%h\n' | sort -u | paste -sd:; }
fits() {
    local programs=("$tree"/usr/bin/{ceph-mon,ceph-osd,radosgw,radosgw-admin,monmaptool})
    ! LD_LIBRARY_PATH=$(libraries) ldd "${programs[@]}" | grep -q 'not found'
}
[[ -e $tree/complete ]] && fits && exit 0
if command -v radosgw ceph-mon ceph-osd >/dev/null; then exit 0; fi

# What the machine lacks for them. An empty answer means that the package lists are missing.
lacking() {
    apt-get -s -o APT::Sandbox::User=root install --no-install-recommends "${packages[@]}" 2>/dev/null |
        sed -n 's/^Inst \([^ ]*\) .*/\1/p'
}
mapfile -t wanted < <(lacking)
((${#wanted[@]})) || { echo "fetch-radosgw: apt knows no ${packages[*]}; run 'apt-get update' as root" >&2; exit 1; }
mkdir -p .tools
work=$(mktemp -d "$PWD/.tools/ceph-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/packages" "$work/tree"
(cd "$work/packages" && apt-get -qq -o APT::Sandbox::User=root download "${wanted[@]}")
for package in "$work"/packages/*.deb; do dpkg-deb -x "$package" "$work/tree"; done
touch "$work/tree/complete"
rm -rf "$tree"
mv "$work/tree" "$tree"
echo "fetch-radosgw: ${#wanted[@]} packages unpacked into $tree"
