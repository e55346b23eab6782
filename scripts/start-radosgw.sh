#!/usr/bin/env bash
# Ceph's object gateway for one test run: a monitor, a store in memory and the gateway, on free ports of 127.0.0.1,
# everything in a folder of its own. nextest runs this before the first test that needs it; a guard stops all of it and
# removes the folder once nextest has gone, however it went.
#   start-radosgw.sh            under nextest: writes the tests' variables to $NEXTEST_ENV
#   start-radosgw.sh hold       by hand: prints the variables, runs until interrupted
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ ${1:-} != hold ]]; then watched=$PPID; else watched=$$; fi
readonly access_key=stillframe secret_key=a-secret-of-the-tests-only
readonly tree=$PWD/.tools/ceph
if [[ -e $tree/complete ]]; then
    libraries=$(dirname "$(find "$tree/usr/lib" -name 'librados.so.2' | head -n 1)")
    export PATH=$tree/usr/bin:$PATH LD_LIBRARY_PATH=$libraries:$libraries/ceph:${libraries/usr\/lib/lib}
    export PYTHONPATH=$tree/usr/lib/python3/dist-packages
    plugins="plugin dir = $libraries/ceph
erasure code dir = $libraries/ceph/erasure-code
osd class dir = $libraries/rados-classes"
elif ! command -v radosgw >/dev/null; then
    echo "start-radosgw: no radosgw; run scripts/install.sh test" >&2
    exit 1
fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/stillframe-radosgw-XXXXXX")
cd "$dir"
mkdir mon osd run log

guard() { # waits for the test run to end, then stops the daemons, newest first, and forgets them
    while kill -0 "$watched" 2>/dev/null && [[ ! -e stop ]]; do sleep 0.5; done
    local name pid
    for name in gateway osd mon; do
        [[ -s $name.pid ]] || continue
        pid=$(<"$name.pid")
        kill "$pid" 2>/dev/null || continue
        for _ in {1..50}; do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
}
export -f guard
export dir watched
setsid bash -c guard </dev/null >/dev/null 2>&1 &
failed() {
    echo "start-radosgw: $1 did not start. $(df -h --output=avail . | tail -n 1) free in $dir. Its logs end with:" >&2
    tail -n 15 log/*"$1"* >&2 2>/dev/null || true
    touch stop
    exit 1
}
daemon() { # NAME COMMAND...
    local name=$1
    shift
    setsid "$@" --foreground </dev/null >"log/$name.out" 2>&1 &
    echo $! >"$name.pid"
}
wait_for() { # NAME COMMAND... until it succeeds
    local name=$1
    shift
    for _ in {1..600}; do
        "$@" >/dev/null 2>&1 && return
        kill -0 "$(<"$name.pid")" 2>/dev/null || failed "$name"
        sleep 0.1
    done
    failed "$name"
}

read -r monitor_port port tls_port < <(python3 - <<'PORTS'
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in held))
PORTS
)
# An authority of its own, and the gateway's certificate by it.
quiet_openssl() { openssl "$@" 2>>log/openssl.out || failed openssl; }
new_key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
quiet_openssl req -x509 "${new_key[@]}" -days 2 -subj /CN=stillframe-test-authority -keyout ca.key -out ca.pem
quiet_openssl req "${new_key[@]}" -subj /CN=localhost -keyout gateway.key -out gateway.csr
printf '%s\n' 'subjectAltName = DNS:localhost, IP:127.0.0.1' 'basicConstraints = CA:FALSE' >extensions
quiet_openssl x509 -req -in gateway.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions \
    -out gateway.pem

cluster=$(</proc/sys/kernel/random/uuid) store=$(</proc/sys/kernel/random/uuid)
export CEPH_CONF=$dir/ceph.conf
cat >ceph.conf <<EOF
[global]
fsid = $cluster
mon host = v1:127.0.0.1:$monitor_port
public network = 127.0.0.0/8
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
run dir = $dir/run
admin socket = $dir/run/\$name.asok
log file = $dir/log/\$name.log
${plugins:-}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
# What the tests store is in memory: a nearly full disk is no reason to stop.
mon data avail crit = -1
mon data avail warn = -1
[mon]
mon data = $dir/mon
mon initial members = a
mon cluster log file = $dir/log/cluster.log
[osd]
osd data = $dir/osd
osd objectstore = memstore
memstore device bytes = 12884901888
osd crush update on start = false
osd class update on start = false
[client.gateway]
rgw frontends = beast tcp_nodelay=1 endpoint=127.0.0.1:$port ssl_endpoint=127.0.0.1:$tls_port ssl_certificate=$dir/gateway.pem ssl_private_key=$dir/gateway.key
rgw gc obj min wait = 2
rgw gc processor period = 2
EOF
monmaptool --create --fsid "$cluster" --addv a "[v1:127.0.0.1:$monitor_port]" monmap >log/mon.out 2>&1 || failed mon
ceph-mon --mkfs -i a --monmap monmap >>log/mon.out 2>&1 || failed mon
daemon mon ceph-mon -i a
wait_for mon ceph --connect-timeout 2 mon stat
ceph osd new "$store" >/dev/null
ceph-osd -i 0 --mkfs --osd-uuid "$store" >log/osd.out 2>&1 || failed osd
ceph osd crush add-bucket default root >/dev/null 2>&1 || true
ceph osd crush add osd.0 1.0 root=default >/dev/null 2>&1
daemon osd ceph-osd -i 0
store_is_up() { ceph --connect-timeout 2 osd stat | grep -q '1 up'; }
wait_for osd store_is_up
daemon gateway radosgw -n client.gateway
radosgw-admin -n client.gateway user create --uid=tests --display-name=tests --access-key="$access_key" \
    --secret-key="$secret_key" >log/user.out 2>&1 || failed user
# One whose share of the storage is 16 MiB.
radosgw-admin -n client.gateway --rgw-user-default-quota-max-size=16777216 user create --uid=small \
    --display-name=small --access-key=small --secret-key="$secret_key" >>log/user.out 2>&1 || failed user
wait_for gateway curl -sf -o /dev/null "http://127.0.0.1:$port/"
# Another gateway before the same store, for a test that kills it.
cat >another-gateway <<EOF
#!/bin/sh
export PATH='$PATH' LD_LIBRARY_PATH='${LD_LIBRARY_PATH:-}' CEPH_CONF='$CEPH_CONF'
exec radosgw -n client.gateway --foreground --admin-socket= --log-file= --rgw-frontends="beast endpoint=127.0.0.1:\$1"
EOF
chmod +x another-gateway
variables="STILLFRAME_S3_HTTP=http://127.0.0.1:$port
STILLFRAME_S3_HTTPS=https://localhost:$tls_port
STILLFRAME_S3_CA=$dir/ca.pem
STILLFRAME_S3_GATEWAY=$dir/another-gateway
STILLFRAME_S3_ACCESS_KEY=$access_key
STILLFRAME_S3_SECRET_KEY=$secret_key"
if [[ ${1:-} == hold ]]; then
    echo "$variables"
    trap 'touch stop; exit' INT TERM
    sleep infinity &
    wait
fi
echo "$variables" >>"$NEXTEST_ENV"
