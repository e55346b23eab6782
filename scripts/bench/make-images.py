#!/usr/bin/env python3
"""Makes the disks that the bench backs up, the same ones each time on the same machine (but for times the kernel writes).

  make-images.py FOLDER

  vm1-day1.raw       a disk with ext4 from its second MiB on: this machine's programs, a database, logs, media
  vm1-day2.raw       a day later: database pages written, logs grown, packages upgraded, files deleted
  vm1-day2.areas     what changed, in 64 KiB, as lines of "offset length": what change tracking reports
  vm2-day1.raw       a clone of the same template with other data: a database, media, the Rust toolchain's libraries
  vm3-day1.raw       vm2's files installed anew: another file system, other places

Needs root, loop devices, e2fsprogs and rustc. SIZE_MIB (8192) and TREE_MIB (3600) make smaller ones. A folder that has
them already is left alone.
"""
import contextlib
import os
import random
import shutil
import subprocess
import sys
import uuid

SIZE_MIB = int(os.environ.get("SIZE_MIB", "8192"))
TREE_MIB = int(os.environ.get("TREE_MIB", "3600"))
SCALE = TREE_MIB / 3600
PARTITION = 1 << 20
AREA = 64 << 10
LEFT_OUT = ("man", "locale", "icons", "google-cloud-sdk", "gocode")
LEFT_OUT_PREFIX = "go-1."


def run(*words, **options):
    subprocess.run([str(word) for word in words], check=True, **options)


def tree():
    """Files below /usr and /etc, in the order of their names: the template's programs. Of more than TREE_MIB, some."""
    found = []
    for root in ("/usr", "/etc"):
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if not left_out(folder, name)]
            for path in (f"{folder}/{name}" for name in files):
                if os.path.isfile(path) and not os.path.islink(path):
                    found.append((path, os.lstat(path).st_size))
    found.sort()
    random.Random(1).shuffle(found)
    chosen, total = [], 0
    for path, size in found:
        if total + size <= TREE_MIB << 20:
            chosen.append(path)
            total += size
    return sorted(chosen)


def left_out(folder, name):
    return name in LEFT_OUT or name.startswith(LEFT_OUT_PREFIX) or os.path.ismount(f"{folder}/{name}")


def toolchain():
    """The folder of the Rust toolchain's libraries: programs that the template does not have."""
    root = subprocess.run(["rustc", "--print", "sysroot"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    return f"{root}/lib"


def words(seed):
    draw = random.Random(seed)
    return ["".join(draw.choices("etaoinsrhldcumfpgwybvk", k=draw.randint(2, 11))) for _ in range(6000)]


def database(path, mib, seed):
    """Pages of 8 KiB: a header, numbers, some text, and room that is free."""
    draw, vocabulary = random.Random(seed), words(5)
    with open(path, "wb") as file:
        for page in range(mib * 128):
            head = page.to_bytes(8, "little") + bytes(24) + b"".join(slot.to_bytes(4, "little") for slot in range(0, 320, 4))
            rows = draw.randbytes(2100) + " ".join(draw.choices(vocabulary, k=560)).encode()[:3700]
            file.write((head + rows).ljust(8192, b"\0"))


def log(path, mib, seed):
    draw, vocabulary = random.Random(seed), words(6)
    services = ["sshd", "kernel", "httpd", "cron", "postgres", "shop"]
    at, left = 1_750_000_000, mib << 20
    with open(path, "ab") as file:
        while left > 0:
            lines = []
            for _ in range(4000):
                at += draw.randint(0, 3)
                text = " ".join(draw.choices(vocabulary, k=8))
                lines.append(f"{at}.{draw.randrange(10**6):06} web1 {draw.choice(services)}[{draw.randrange(65536)}]: "
                             f"{text} request={draw.getrandbits(64):016x} took={draw.randrange(9000)}\n")
            data = "".join(lines).encode()[:left]
            file.write(data)
            left -= len(data)


def media(path, mib, seed):
    draw = random.Random(seed)
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(draw.randbytes(1 << 20))


def mib(figure):
    return max(1, round(figure * SCALE))


@contextlib.contextmanager
def mounted(image):
    folder = f"{image}.mount"
    os.makedirs(folder, exist_ok=True)
    run("mount", "-o", f"loop,offset={PARTITION},noatime", image, folder)
    try:
        yield folder
        run("sync", "-f", folder)
    finally:
        run("umount", folder)
        os.rmdir(folder)


def new_disk(image, seed):
    identity = uuid.UUID(int=random.Random(seed).getrandbits(128), version=4)
    with open(image, "wb") as file:
        file.truncate(SIZE_MIB << 20)
    fake = dict(os.environ, E2FSPROGS_FAKE_TIME="1750000000")
    run("mkfs.ext4", "-q", "-F", "-b", "4096", "-U", identity, "-E", f"offset={PARTITION},hash_seed={identity}", image,
        f"{SIZE_MIB - 2}m", env=fake)


def install(folder, files):
    listing = "\0".join(path[1:] for path in files)
    packed = subprocess.Popen(["tar", "-cf", "-", "-C", "/", "--no-recursion", "--null", "-T", "-"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    unpacked = subprocess.Popen(["tar", "-C", folder, "-xf", "-"], stdin=packed.stdout)
    packed.stdin.write(listing.encode())
    packed.stdin.close()
    if unpacked.wait() or packed.wait():
        raise SystemExit("make-images: tar failed")
    os.makedirs(f"{folder}/srv", exist_ok=True)


def second_data(folder):
    database(f"{folder}/srv/heap.db", mib(96), 21)
    media(f"{folder}/srv/b.bin", mib(128), 22)


def a_day(folder, day):
    """What a day does to vm1."""
    draw = random.Random(1000 + day)
    with open(f"{folder}/srv/heap.db", "r+b") as file:
        pages = os.fstat(file.fileno()).st_size // 8192
        warm = [draw.randrange(pages) for _ in range(40)]
        for _ in range(mib(1600)):
            near = draw.random() < 0.6
            page = (draw.choice(warm) + draw.randrange(64)) % pages if near else draw.randrange(pages)
            file.seek(page * 8192 + draw.randrange(6000))
            file.write(draw.randbytes(draw.randint(64, 900)))
    log(f"{folder}/srv/app.log", mib(14), 2000 + day)
    upgrade(folder, draw, mib(56) << 20)
    removed = [f"{at}/{name}" for at, _, names in os.walk(f"{folder}/usr/share") for name in names]
    for path in draw.sample(sorted(removed), min(800, len(removed) // 10)):
        os.unlink(path)
    media(f"{folder}/srv/new-{day}.bin", mib(20), 3000 + day)
    for number in range(300):
        with open(f"{folder}/srv/conf-{number}", "w") as file:
            file.write(f"key{number} = {draw.random()}\n" * draw.randint(1, 200))


def upgrade(folder, draw, total):
    """New versions of files: some bytes differ, a few are inserted, the file is written anew and renamed."""
    files = []
    for at, folders, names in os.walk(f"{folder}/usr/lib"):
        folders.sort()
        files += [f"{at}/{name}" for name in sorted(names) if 4096 < os.path.getsize(f"{at}/{name}") < 24 << 20]
    draw.shuffle(files)
    for path in files:
        if total <= 0:
            return
        with open(path, "rb") as file:
            data = bytearray(file.read())
        total -= len(data)
        for _ in range(len(data) // 40_000 + 1):
            place = draw.randrange(len(data))
            data[place:place + 16] = draw.randbytes(16)
        place = draw.randrange(len(data))
        data[place:place] = draw.randbytes(draw.randint(1, 300))
        with open(f"{path}.new", "wb") as file:
            file.write(data)
        os.rename(f"{path}.new", path)


def changed_areas(before, after, out):
    areas = []
    with open(before, "rb") as a, open(after, "rb") as b, open(out, "w") as file:
        for offset in range(0, SIZE_MIB << 20, 1 << 20):
            old, new = a.read(1 << 20), b.read(1 << 20)
            if old == new:
                continue
            for at in range(0, 1 << 20, AREA):
                if old[at:at + AREA] != new[at:at + AREA]:
                    if areas and sum(areas[-1]) == offset + at:
                        areas[-1] = (areas[-1][0], areas[-1][1] + AREA)
                    else:
                        areas.append((offset + at, AREA))
        file.writelines(f"{offset} {length}\n" for offset, length in areas)
    print(f"bench: {len(areas)} changed areas, {sum(length for _, length in areas) >> 20} MiB")


def copy(source, target):
    run("cp", "--sparse=always", source, target)


def next_day(before, after, day):
    """A copy of vm1's disk, a day older; and what changed. For series as well."""
    copy(before, after)
    with mounted(after) as folder:
        a_day(folder, day)
    run("fallocate", "--dig-holes", after)
    changed_areas(before, after, after.removesuffix(".raw") + ".areas")


def main(out):
    if os.path.exists(f"{out}/done"):
        return
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    files = tree()
    template, day1, day2 = f"{out}/template.raw", f"{out}/vm1-day1.raw", f"{out}/vm1-day2.raw"
    new_disk(template, 31)
    with mounted(template) as folder:
        install(folder, files)
    copy(template, day1)
    with mounted(day1) as folder:
        database(f"{folder}/srv/heap.db", mib(256), 11)
        log(f"{folder}/srv/app.log", mib(128), 12)
        media(f"{folder}/srv/a.bin", mib(192), 13)
    next_day(day1, day2, 2)
    copy(template, f"{out}/vm2-day1.raw")
    with mounted(f"{out}/vm2-day1.raw") as folder:
        second_data(folder)
        shutil.copytree(toolchain(), f"{folder}/srv/toolchain", symlinks=True)
    new_disk(f"{out}/vm3-day1.raw", 32)
    with mounted(f"{out}/vm3-day1.raw") as folder:
        shutil.copytree(toolchain(), f"{folder}/aaa/toolchain", symlinks=True)
        install(folder, files)
        second_data(folder)
    os.unlink(template)
    for name in sorted(os.listdir(out)):
        if name.endswith(".raw"):
            used = os.stat(f"{out}/{name}").st_blocks // 2048
            print(f"bench: {name}: {used} of {SIZE_MIB} MiB in use")
    open(f"{out}/done", "w").close()


if __name__ == "__main__":
    if len(sys.argv) != 2 or os.geteuid():
        raise SystemExit(__doc__)
    main(sys.argv[1])
