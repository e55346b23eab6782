#!/usr/bin/env python3
"""Boots a raw disk in QEMU and waits for its GUEST-READY line. The disk itself is never written.

    tests/guest/boot.py [--controller pvscsi|ahci|ide] [--firmware bios|uefi] [--cpu-seconds N] DISK.raw

Exit code 0 when the guest said it is ready, 1 when it did not (the tail of its serial line is printed), 2 when the
question could not be put (no QEMU, no disk). Pure emulation, no network, QEMU's own sandbox; QEMU is always ended.
The budget is processor time, because machines are busy: a slow minute on a loaded machine is not a bad backup.
"""

import argparse
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

READY, PANIC = re.compile(rb"GUEST-READY[^\r\n]*(?=[\r\n])"), b"Kernel panic"
# Final words of the guest, its boot loader and its firmware: no need to wait out the budget.
FAILED = (PANIC, b"GUEST-FAILED", b"grub>", b"grub rescue>", b"No bootable device")
MEMORY_MIB = 256
TRANSLATION_CACHE_MIB = 64  # QEMU's memory is the guest's and this
SERIAL_LIMIT_BYTES = 1 << 20
TAIL_LINES = 40
CPU_SECONDS, WALL_SECONDS = 240, 540
# Emulated processors now and then trip early in a start that succeeds when it is run again.
EARLY_PANIC_CPU_SECONDS, TRIES = 15, 2
UEFI_CODE = "/usr/share/OVMF/OVMF_CODE_4M.fd"

CONTROLLERS = {
    "ahci": ["-device", "ich9-ahci,id=bus", "-device", "ide-hd,bus=bus.0,drive=disk"],
    "ide": ["-device", "ide-hd,bus=ide.0,drive=disk"],
    "pvscsi": ["-device", "pvscsi,id=bus", "-device", "scsi-hd,bus=bus.0,drive=disk"],
}


def command(disk, controller, firmware):
    arguments = [
        "setpriv", "--pdeathsig", "KILL",  # QEMU goes even when this script is killed
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
        "-accel", f"tcg,tb-size={TRANSLATION_CACHE_MIB}", "-machine", "pc", "-cpu", "max",
        "-m", str(MEMORY_MIB), "-smp", "1", "-nic", "none", "-vga", "none", "-monitor", "none", "-serial", "stdio",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-drive", f"if=none,id=disk,format=qcow2,file={disk}",
    ]
    if firmware == "uefi":
        arguments += ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={UEFI_CODE}"]
    return arguments + CONTROLLERS[controller]


def cpu_seconds(pid):
    """Processor time of a live process, all threads."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Stopped(Exception):
    """Whoever started us gives up; still say how far the guest came."""


def stop(*_):
    raise Stopped


def boot_once(arguments, budget):
    """Returns (verdict, serial output, CPU seconds); the verdict is None when the guest is ready."""
    qemu = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    serial, used, started = bytearray(), 0.0, time.monotonic()
    try:
        while True:
            readable, _, _ = select.select([qemu.stdout], [], [], 1.0)
            used = max(used, cpu_seconds(qemu.pid))
            if readable:
                piece = os.read(qemu.stdout.fileno(), 65536)
                if not piece:
                    return f"QEMU ended with code {qemu.wait()} before the guest was ready", serial, used
                serial += piece
            if READY.search(serial):
                return None, serial, used
            # A failure is judged when the guest falls silent, so that the report has the whole of it.
            bad = None if readable else next((text for text in FAILED if text in serial), None)
            if bad:
                return f"the guest says {bad.decode()!r}", serial, used
            if len(serial) > SERIAL_LIMIT_BYTES:
                return f"more than {SERIAL_LIMIT_BYTES} bytes on the serial line", serial, used
            if used > budget:
                return f"not ready after {used:.0f} s of processor time", serial, used
            if time.monotonic() - started > WALL_SECONDS:
                return f"not ready after {WALL_SECONDS} s ({used:.0f} s of processor time)", serial, used
    except Stopped:
        return f"stopped after {used:.0f} s of processor time", serial, used
    finally:
        qemu.kill()
        qemu.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("disk", type=pathlib.Path)
    parser.add_argument("--controller", choices=sorted(CONTROLLERS), default="pvscsi")
    parser.add_argument("--firmware", choices=["bios", "uefi"], default="bios")
    parser.add_argument("--cpu-seconds", type=float, default=CPU_SECONDS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)

    missing = [tool for tool in ("qemu-system-x86_64", "qemu-img") if not shutil.which(tool)]
    if missing or not options.disk.is_file():
        print(f"boot: missing {', '.join(missing) or options.disk}", file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory(prefix="boot-") as folder:
        for attempt in range(1, TRIES + 1):
            overlay = os.path.join(folder, f"overlay-{attempt}.qcow2")
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(options.disk.resolve()), overlay],
                check=True,
            )
            verdict, serial, used = boot_once(
                command(overlay, options.controller, options.firmware), options.cpu_seconds
            )
            if PANIC not in serial or used > EARLY_PANIC_CPU_SECONDS:
                break
    if verdict is None:
        print(f"{READY.search(serial).group().decode()} ({options.controller}, {options.firmware}, {used:.0f} s of processor time)")
        return
    print(f"boot: {options.disk}: {verdict}; the end of its serial line:", file=sys.stderr)
    for line in serial.splitlines()[-TAIL_LINES:]:
        print("    " + line.decode(errors="replace"), file=sys.stderr)
    sys.exit(1)


main()
