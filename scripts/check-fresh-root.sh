#!/usr/bin/env bash
# Proves that scripts/install.sh is enough: makes a Debian 12 that has nothing, puts a clone of HEAD and this machine's
# Rust toolchain into it, and installs there. Root, mmdebstrap and the Debian archive are needed; not part of `make test`.
#
#   scripts/check-fresh-root.sh            packages for run and test
#   scripts/check-fresh-root.sh --build    also the release build of `make run`, and `stillframe doctor`
#   scripts/check-fresh-root.sh --test     also the whole of `make test`
set -euo pipefail
cd "$(dirname "$0")/.."
depth=${1:-}
((EUID == 0)) || { echo "check-fresh-root: needs root for chroot and bind mounts" >&2; exit 1; }
command -v mmdebstrap >/dev/null || { echo "check-fresh-root: needs Debian's mmdebstrap" >&2; exit 1; }
# A mount namespace of its own: whatever happens, the kernel takes the mounts away with it.
[[ ${FRESH_ROOT_INSIDE:-} ]] || exec env FRESH_ROOT_INSIDE=1 unshare --mount --pid --fork --kill-child "$0" "$@"

sysroot=$(rustc --print sysroot)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
work=$(mktemp -d)
root=$work/root
cleanup() {
    # Unmount first: removing the tree must never reach through a bind mount.
    local point
    for point in proc dev opt/rust; do umount -l "$root/$point" 2>/dev/null || true; done
    mountpoint -q "$root/opt/rust" && { echo "check-fresh-root: $root is still mounted, left as it is" >&2; return; }
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT

echo "== Debian 12 with nothing"
mmdebstrap --quiet --variant=minbase --aptopt='APT::Sandbox::User "root"' bookworm "$root"
rm -f "$root"/var/lib/apt/lists/*_Packages*
cp /etc/resolv.conf "$root/etc/"
mkdir -p "$root/opt/rust" "$root/usr/local/share/ca-certificates" "$root/root/.cargo/registry"
cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
mount --bind "$sysroot" "$root/opt/rust"
mount -o remount,bind,ro "$root/opt/rust"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
for part in index cache; do
    [[ -d $cargo_home/registry/$part ]] && cp -r "$cargo_home/registry/$part" "$root/root/.cargo/registry/"
done
git clone --quiet --no-hardlinks . "$root/root/stillframe"

inside() {
    chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 CI=true \
        PATH=/opt/rust/bin:/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        bash -c "cd /root/stillframe && $1"
}
count() { inside "dpkg-query -f '.\n' -W | wc -l"; }

before=$(count)
for what in run debian; do
    echo "== scripts/install.sh $what"
    start=$SECONDS
    inside "scripts/install.sh $what"
    echo "   $((SECONDS - start)) s; again: $({ time inside "scripts/install.sh $what"; } 2>&1 | sed -n 's/^real\s*//p')"
    after=$(count)
    echo "   $((after - before)) Debian packages were added"
    before=$after
done
if inside 'pg_lsclusters -h 2>/dev/null' | grep .; then
    echo "check-fresh-root: PostgreSQL made a cluster of the system's own" >&2
    exit 1
fi
case $depth in
--build) inside 'cargo build --release --locked -p app && target/release/stillframe doctor' ;;
--test) inside 'make test' ;;
esac
echo "== enough"
