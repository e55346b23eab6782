#!/usr/bin/env bash
# Builds a small bootable disk: the guest that tests back up, restore and boot again.
#
#   tests/guest/make-guest.sh [OUT.raw]        default: target/guest/guest.raw
#
# GPT with a BIOS boot partition, an EFI system partition and an ext4 root; Debian's kernel, busybox and GRUB. It starts
# from BIOS and from UEFI, on AHCI, IDE, PVSCSI, NVMe, virtio and Hyper-V storage, and says GUEST-READY on the
# serial line. Nothing is mounted and no loop device is used, so it builds in a plain container.
# The disk is rebuilt only when this script changes (a stamp beside it holds the script's hash).
set -euo pipefail
script=$(realpath "$0")
cd "$(dirname "$script")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
out=$(realpath -m "${1:-$target/guest/guest.raw}")
debs=$target/guest/debs
stamp=$out.stamp
hash=$(sha256sum <"$script" | cut -d' ' -f1)

if [[ -f $out && -f $stamp && $(<"$stamp") == "$hash" ]]; then
    echo "guest disk is up to date: $out"
    exit 0
fi

export LC_ALL=C TZ=UTC PATH=$PATH:/usr/sbin:/sbin
export SOURCE_DATE_EPOCH=1767225600 E2FSPROGS_FAKE_TIME=1767225600
readonly disk_bytes=$((256 << 20)) sector_bytes=512
readonly bios_start=2048 esp_start=4096 esp_sectors=81920 root_start=86016
readonly root_uuid=5717f4a3-0000-4000-8000-000000000001
# What a disk may hang on after a restore, here or on another hypervisor.
readonly drivers="ahci ata_piix sd_mod vmw_pvscsi mptspi mptsas nvme virtio_pci virtio_blk virtio_scsi hv_storvsc
    ext4 e1000 e1000e vmxnet3 virtio_net hv_netvsc"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$debs" "$(dirname "$out")"

# unpack PACKAGE FOLDER: from the cache, or from the archive into the cache.
unpack() {
    local file
    file=$(find "$debs" -name "$1_*.deb" | sort | tail -n 1)
    if [[ -z $file ]]; then
        if ! (cd "$debs" && apt-get download -qq -o APT::Sandbox::User=root "$1") >"$work/apt.log" 2>&1; then
            cat "$work/apt.log" >&2
            echo "make-guest: cannot download $1; is 'apt-get update' due?" >&2
            return 1
        fi
        file=$(find "$debs" -name "$1_*.deb" | sort | tail -n 1)
    fi
    dpkg-deb -x "$file" "$2"
}

kernel_package() {
    local cached
    cached=$(find "$debs" -name 'linux-image-[0-9]*.deb' -printf '%f\n' | sort -V | tail -n 1)
    if [[ -n $cached ]]; then
        echo "${cached%%_*}"
    else
        apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1
    fi
}

make_initramfs() { # KERNEL-VERSION OUT
    local init=$work/initramfs module
    mkdir -p "$init"/{bin,dev,proc,sys,root,modules}
    cp "$work/busybox/bin/busybox" "$init/bin/"
    for module in $drivers; do
        modprobe -d "$work/kernel" -S "$1" --show-depends "$module" | sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | awk '!seen[$0]++' >"$work/modules"
    # Numbered in dependency order: the guest loads them as the shell lists them.
    local number=100
    while read -r module; do
        cp "$module" "$init/modules/$number-$(basename "$module")"
        number=$((number + 1))
    done <"$work/modules"
    cat >"$init/init" <<EOF
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
for module in /modules/*; do insmod \$module 2>/dev/null; done
tries=0
until disk=\$(findfs UUID=$root_uuid 2>/dev/null) && mount -t ext4 \$disk /root; do
    tries=\$((tries + 1))
    [ \$tries -lt 1200 ] || { echo 'GUEST-FAILED no root file system' >/dev/console; exec sh; }
    usleep 50000 # slow controllers answer after half a minute
done
mount --move /dev /root/dev; umount /proc /sys
exec switch_root /root /sbin/init
EOF
    chmod 755 "$init/init"
    find "$init" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    (cd "$init" && find . | sort | cpio --quiet --reproducible -o -H newc | gzip -n1) >"$2"
}

make_root() { # KERNEL-VERSION
    local root=$work/root applet
    mkdir -p "$root"/{bin,boot/grub,dev,etc,home/user/reports,proc,root,run,sbin,sys,tmp,var/log}
    cp "$work/busybox/bin/busybox" "$root/bin/"
    ln -s ../bin/busybox "$root/sbin/init"
    for applet in sh mount umount hostname ip cat echo ls getty login reboot poweroff sha256sum df sync sleep; do
        ln -s busybox "$root/bin/$applet"
    done
    cat >"$root/etc/inittab" <<'EOF'
::sysinit:/etc/start
ttyS0::respawn:/bin/getty -L 115200 ttyS0 vt100
tty1::respawn:/bin/getty 38400 tty1
::ctrlaltdel:/bin/reboot
EOF
    # The disk is written to before it says it is ready: a root that cannot be written is not a good restore.
    cat >"$root/etc/start" <<'EOF'
#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmp /run
hostname guest; ip link set lo up
if echo started >>/var/log/boots && sync && sha256sum -cs /home/user/reports/SHA256SUMS; then
    verdict='GUEST-READY'
else
    verdict='GUEST-FAILED its files differ'
fi
read seconds rest </proc/uptime
for line in /dev/ttyS0 /dev/tty1; do echo "$verdict after ${seconds}s" >$line; done 2>/dev/null
EOF
    chmod 755 "$root/etc/start"
    echo 'root::0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    echo "UUID=$root_uuid / ext4 errors=remount-ro 0 1" >"$root/etc/fstab"
    # Files whose sums the guest checks at every start; the large one also spans many chunks of a backup.
    local reports=$root/home/user/reports
    seq -f 'line %g of a report that compresses well' 40000 >"$reports/plain.txt"
    openssl enc -aes-128-ctr -nosalt -K 00 -iv 00 </dev/zero 2>/dev/null | head -c 6291456 >"$reports/dense.bin" || true
    truncate -s 4M "$reports/hole.bin"
    (cd "$root" && sha256sum home/user/reports/{plain.txt,dense.bin,hole.bin} | sed 's# home# /home#') >"$work/sums"
    mv "$work/sums" "$reports/SHA256SUMS"
    cp "$work/kernel/boot/vmlinuz-$1" "$root/boot/vmlinuz"
    make_initramfs "$1" "$root/boot/initrd.img"
    cat >"$root/boot/grub/grub.cfg" <<EOF
set timeout=0
serial --unit=0 --speed=115200
terminal_output console serial
linux /boot/vmlinuz console=tty0 console=ttyS0,115200 panic=1 quiet
initrd /boot/initrd.img
boot
EOF
    find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

write_partitions() { # DISK
    local last=$((disk_bytes / sector_bytes - 2048)) guid=5717f4a3-0000-4000-8000-0000000000
    sgdisk -a 1 -U "${guid}f0" \
        -n "1:$bios_start:$((esp_start - 1))" -t 1:ef02 -u "1:${guid}f1" \
        -n "2:$esp_start:$((esp_start + esp_sectors - 1))" -t 2:ef00 -u "2:${guid}f2" \
        -n "3:$root_start:$last" -t 3:8300 -u "3:${guid}f3" "$1" >/dev/null
    mke2fs -q -F -t ext4 -L root -U "$root_uuid" -d "$work/root" \
        -E "hash_seed=$root_uuid,root_owner=0:0,nodiscard,offset=$((root_start * sector_bytes))" \
        "$1" "$(((last - root_start + 1) / 2))k"
}

write_boot_loaders() { # DISK
    local grub=$work/grub modules="part_gpt ext2 search search_fs_uuid configfile normal linux serial terminal boot echo"
    cat >"$work/find-root.cfg" <<EOF
search --fs-uuid --set=root $root_uuid
set prefix=(\$root)/boot/grub
configfile \$prefix/grub.cfg
EOF
    local mkimage=("$grub/usr/bin/grub-mkimage" -p /boot/grub -c "$work/find-root.cfg")
    # shellcheck disable=SC2086 # a list of words
    "${mkimage[@]}" -d "$grub/usr/lib/grub/i386-pc" -O i386-pc -o "$work/core.img" biosdisk $modules
    # shellcheck disable=SC2086
    "${mkimage[@]}" -d "$grub/usr/lib/grub/x86_64-efi" -O x86_64-efi -o "$work/bootx64.efi" fat efi_gop $modules
    /usr/bin/python3 - "$1" "$grub/usr/lib/grub/i386-pc/boot.img" "$work/core.img" "$bios_start" "$sector_bytes" <<'EOF'
# What grub-bios-setup would do to a mounted disk: the first sector points at the core image in the BIOS boot
# partition, and the core image's first sector says how long the rest is.
import sys

disk_path, boot_path, core_path = sys.argv[1:4]
start, sector = int(sys.argv[4]), int(sys.argv[5])
CODE_END, SIGNATURE = 440, 510
with open(boot_path, "rb") as file:
    boot = bytearray(file.read(sector))
with open(core_path, "rb") as file:
    core = bytearray(file.read())
core += bytes(-len(core) % sector)
rest = len(core) // sector - 1
assert rest < 2047, "the core image does not fit its partition"
boot[0x5C:0x64] = start.to_bytes(8, "little")
boot[0x64] = 0xFF  # boot from the drive the BIOS names
boot[0x66:0x68] = b"\x90\x90"  # trust that drive number
core[0x1F4:0x1FC] = (start + 1).to_bytes(8, "little")
core[0x1FC:0x1FE] = rest.to_bytes(2, "little")
with open(disk_path, "r+b") as disk:
    disk.write(boot[:CODE_END])
    disk.seek(start * sector)
    disk.write(core)
EOF
    local esp=$work/esp.img
    truncate -s $((esp_sectors * sector_bytes)) "$esp"
    mkfs.vfat -F 32 -s 1 -n EFI -i 5717F4A3 --invariant "$esp" >/dev/null
    touch -d "@$SOURCE_DATE_EPOCH" "$work/bootx64.efi"
    mmd -i "$esp" ::/EFI ::/EFI/BOOT
    mcopy -m -i "$esp" "$work/bootx64.efi" ::/EFI/BOOT/BOOTX64.EFI
    dd if="$esp" of="$1" bs=1M seek=$((esp_start * sector_bytes >> 20)) conv=notrunc,sparse status=none
}

kernel=$(kernel_package)
[[ -n $kernel ]] || { echo "make-guest: no kernel in the package lists; run 'apt-get update'" >&2; exit 1; }
unpack "$kernel" "$work/kernel"
unpack busybox-static "$work/busybox"
for package in grub-pc-bin grub-efi-amd64-bin grub-common; do unpack "$package" "$work/grub"; done
version=${kernel#linux-image-}
depmod -b "$work/kernel" "$version"

make_root "$version"
truncate -s "$disk_bytes" "$work/disk.raw"
write_partitions "$work/disk.raw"
write_boot_loaders "$work/disk.raw"
cp --sparse=always "$work/disk.raw" "$out.part"
mv "$out.part" "$out"
echo "$hash" >"$stamp"
echo "guest disk: $out, $((disk_bytes >> 20)) MiB, $(($(du -B1 "$out" | cut -f1) >> 20)) MiB in use, kernel $version, ${SECONDS} s"
