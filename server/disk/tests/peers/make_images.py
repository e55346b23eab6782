#!/usr/bin/env python3
"""Makes VHDX and VHD chains that no tool here can make, and the raw disks they stand for.

Written from MS-VHDX 8.0 and the VHD specification 1.0; shares nothing with the reader it judges. Used as
`make_images.py vhdx|vhd FOLDER SEED`. Leaves in FOLDER the images (`0.vhdx` is the base, the highest number the child),
for each image `N.raw`, the disk as seen through it, and `ranges.txt`: the places worth comparing, `OFFSET LENGTH` a line.
Beside them `N.clean` says that image N has no parent and an empty log.
"""

import os
import random
import struct
import sys
import uuid

MIB = 1 << 20
SECTOR = 4096


def crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


CRC = crc_table()
assert CRC[1] == 0xF26B8303


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def sealed(record):
    """The record with its CRC-32C at byte 4."""
    record = bytearray(record)
    record[4:8] = bytes(4)
    record[4:8] = struct.pack("<I", crc32c(record))
    return bytes(record)


class Disk:
    """A raw disk in a sparse file, and where it was written."""

    def __init__(self, path, size, parent=None):
        self.size = size
        self.file = open(path, "w+b")
        self.file.truncate(size)
        self.ranges = []
        if parent:
            for offset, length in parent.ranges:
                self.write(offset, parent.read(offset, length))

    def write(self, offset, data):
        data = data[: max(0, self.size - offset)]
        if data:
            self.file.seek(offset)
            self.file.write(data)
            self.ranges.append((offset, len(data)))

    def zero(self, offset, length):
        """Only what was ever written can be anything but zero."""
        for start, size in list(self.ranges):
            first, last = max(start, offset), min(start + size, offset + length)
            if first < last:
                self.file.seek(first)
                self.file.write(bytes(last - first))

    def read(self, offset, length):
        self.file.seek(offset)
        return self.file.read(length)


def pattern(rng, length):
    return bytes([rng.randrange(1, 256)]) * (length - 8) + rng.randbytes(8) if length >= 8 else rng.randbytes(length)


def runs(rng, count, wanted):
    """A few runs (start, length) inside range(count)."""
    found = []
    for _ in range(wanted):
        start = rng.randrange(count)
        longest = rng.choice([1, 3, 8, 9, 64, 300])
        found.append((start, min(count - start, rng.randrange(1, longest + 1))))
    return found


class Vhdx:
    BAT_GUID = uuid.UUID("2DC27766-F623-4200-9D64-115E9BFD4A08")
    METADATA_GUID = uuid.UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")

    def __init__(self, rng, size, block, logical, physical, parent=None):
        self.rng, self.size, self.block, self.logical, self.physical = rng, size, block, logical, physical
        self.parent = parent
        self.data_write_guid = uuid.UUID(int=rng.getrandbits(128))
        self.blocks = -(-size // block)
        self.ratio = (1 << 23) * logical // block
        self.chunks = -(-self.blocks // self.ratio)
        entries = self.chunks * (self.ratio + 1) if parent else self.blocks + (self.blocks - 1) // self.ratio
        self.bat = [0] * entries
        self.bat_size = -(-entries * 8 // MIB) * MIB
        self.log_size = rng.choice([1, 1, 2]) * MIB
        places = [("log", self.log_size), ("metadata", MIB), ("bat", self.bat_size)]
        rng.shuffle(places)
        self.at, self.end = {}, MIB
        for name, length in places:
            self.end += rng.choice([0, 0, MIB])
            self.at[name] = self.end
            self.end += length
        self.pieces = {}  # offset in the file -> bytes

    def place(self, length):
        self.end += self.rng.choice([0, 0, 0, MIB, 3 * MIB])
        at, self.end = self.end, self.end + length
        return at

    def bat_index(self, block):
        return block + block // self.ratio

    def fill(self, raw):
        """Gives blocks random states and contents; `raw` follows."""
        rng, per_block = self.rng, self.block // self.logical
        chosen = sorted(rng.sample(range(self.blocks), min(self.blocks, 14)))
        if self.blocks - 1 not in chosen:
            chosen.append(self.blocks - 1)
        rng.shuffle(chosen)
        bitmaps = {}
        for block in chosen:
            offset = block * self.block
            state = rng.choice([0, 1, 2, 3, 6, 6, 6, 6] + ([7] * 6 if self.parent else []))
            entry = state
            if state in (1, 2, 3):
                entry |= rng.choice([0, rng.randrange(1, 1 << 20)]) << 20
                raw.zero(offset, self.block)
            elif state == 6:
                at = self.place(self.block)
                entry |= at
                raw.zero(offset, self.block)
                for start, length in runs(rng, per_block, 5):
                    self.both(raw, at, offset, start, length)
            elif state == 7:
                at = self.place(self.block)
                entry |= at
                chunk = block // self.ratio
                bits = bitmaps.setdefault(chunk, [self.place(MIB), bytearray()])[1]
                first = block % self.ratio * per_block
                bits.extend(bytes(max(0, (first + per_block) // 8 - len(bits))))
                for start, length in runs(rng, per_block, 3):  # nobody may see these
                    self.pieces[at + start * self.logical] = b"\xee" * (length * self.logical)
                for start, length in runs(rng, per_block, 6):
                    for sector in range(first + start, first + start + length):
                        bits[sector // 8] |= 1 << sector % 8
                    if rng.random() < 0.2:
                        raw.zero(offset + start * self.logical, length * self.logical)
                        self.pieces[at + start * self.logical] = bytes(length * self.logical)
                        self.overlap(raw, at, offset, start, length, bytes(length * self.logical))
                    else:
                        self.both(raw, at, offset, start, length)
            self.bat[self.bat_index(block)] = entry
        for chunk in range(self.chunks):
            index = (chunk + 1) * self.ratio + chunk
            if chunk in bitmaps:
                at, bits = bitmaps[chunk]
                self.bat[index] = at | 6
                self.pieces[at] = bytes(bits)
            elif not self.parent and index < len(self.bat):
                self.bat[index] = rng.choice([0, 0, 5 | 7 << 20])  # some writers leave anything here

    def both(self, raw, at, offset, start, length):
        data = b"".join(pattern(self.rng, self.logical) for _ in range(length))
        self.overlap(raw, at, offset, start, length, data)

    def overlap(self, raw, at, offset, start, length, data):
        """Writes to the image and the raw disk alike; later pieces win in both."""
        where = at + start * self.logical
        self.pieces.pop(where, None)
        self.pieces[where] = data
        raw.write(offset + start * self.logical, data)

    def metadata(self):
        items = [
            ("CAA16737-FA36-4D43-B3B6-33F0AA44E76B", 4, struct.pack("<II", self.block, 2 if self.parent else 0)),
            ("2FA54224-CD1B-4876-B211-5DBED83BF4B8", 6, struct.pack("<Q", self.size)),
            ("BECA12AB-B2E6-4523-93EF-C309E000C746", 6, self.rng.randbytes(16)),
            ("8141BF1D-A96F-4709-BA47-F233A8FAAB5F", 6, struct.pack("<I", self.logical)),
            ("CDA348C7-445D-4471-9CC9-E9885251C556", 6, struct.pack("<I", self.physical)),
        ]
        if self.parent:
            items.append(("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C", 4, self.locator()))
        self.rng.shuffle(items)
        table = struct.pack("<8sHH20x", b"metadata", 0, len(items))
        heap, at = b"", 65536
        for guid, flags, value in items:
            gap = self.rng.choice([0, 0, 5, 100_000])  # items lie anywhere in the region
            table += uuid.UUID(guid).bytes_le + struct.pack("<IIII", at + gap, len(value), flags, 0)
            heap += bytes(gap) + value
            at += gap + len(value)
        return table.ljust(65536, b"\0") + heap

    def locator(self):
        path, guid = self.parent
        values = {
            "parent_linkage": "{%s}" % guid,
            "relative_path": self.rng.choice([".\\", ""]) + path,
            "absolute_win32_path": "\\\\?\\C:\\elsewhere\\" + path,
        }
        if self.rng.random() < 0.3:  # while a merge runs, the second one is right
            values["parent_linkage2"] = values["parent_linkage"].upper()
            values["parent_linkage"] = "{%s}" % uuid.UUID(int=5)
        entries = list(values.items())
        self.rng.shuffle(entries)
        head, heap, at = b"", b"", 20 + 12 * len(entries)
        for key, value in entries:
            key, value = key.encode("utf-16-le"), value.encode("utf-16-le")
            head += struct.pack("<IIHH", at, at + len(key), len(key), len(value))
            heap += key + value
            at += len(key) + len(value)
        kind = uuid.UUID("B04AEFB7-D19E-4A81-B789-25B8E9445913").bytes_le
        return kind + struct.pack("<HH", 0, len(entries)) + head + heap

    def header(self, sequence, log_guid):
        record = struct.pack("<4sIQ", b"head", 0, sequence) + self.rng.randbytes(16) + self.data_write_guid.bytes_le
        record += log_guid.bytes_le + struct.pack("<HHIQ", 0, 1, self.log_size, self.at["log"])
        return sealed(record.ljust(4096, b"\0"))

    def regions(self):
        record = struct.pack("<4sIII", b"regi", 0, 2, 0)
        entries = [(self.BAT_GUID, "bat", self.bat_size), (self.METADATA_GUID, "metadata", MIB)]
        self.rng.shuffle(entries)
        for guid, name, length in entries:
            record += guid.bytes_le + struct.pack("<QII", self.at[name], length, 1)
        return sealed(record.ljust(65536, b"\0"))

    def write(self, path, dirty):
        rng = self.rng
        log_guid = uuid.UUID(int=rng.getrandbits(128)) if dirty else uuid.UUID(int=0)
        metadata, bat, regions = self.metadata(), struct.pack("<%dQ" % len(self.bat), *self.bat), self.regions()
        with open(path, "w+b") as file:
            file.truncate(self.end)

            def put(at, data):
                file.seek(at)
                file.write(data)

            put(0, b"vhdxfile" + "maker".encode("utf-16-le"))
            sequence = rng.randrange(1, 1 << 60)
            new, old = self.header(sequence + 1, log_guid), self.header(sequence, uuid.UUID(int=0))
            spoiled = bytearray(self.header(sequence + 9, uuid.UUID(int=1)))
            spoiled[200] ^= 255
            first, second = rng.choice([(new, old), (old, new), (bytes(spoiled), new), (new, bytes(spoiled))])
            put(65536, first)
            put(131072, second)
            put(196608, regions)
            put(262144, regions)
            put(self.at["metadata"], metadata)
            put(self.at["bat"], bat)
            for at, data in self.pieces.items():
                put(at, data)
            if dirty:
                self.dirty(file, put, log_guid, len(metadata), len(bat))

    def dirty(self, file, put, log_guid, metadata_size, bat_size):
        """Moves sectors of the tables from their places into the log."""
        rng = self.rng
        spans = [(196608, 65536), (262144, 65536), (self.at["metadata"], metadata_size), (self.at["bat"], bat_size)]
        sectors = [at + step for at, size in spans for step in range(0, size, SECTOR)]
        bitmaps = [entry & ~(MIB - 1) for index, entry in enumerate(self.bat) if self.parent and index % (self.ratio + 1) == self.ratio and entry]
        sectors += [at + step for at in bitmaps for step in range(0, 65536, SECTOR)]
        moved = rng.sample(sectors, min(len(sectors), rng.randrange(1, 40)))
        for at in (196608, self.at["bat"], self.at["metadata"]):
            if at not in moved:
                moved.append(at)
        true = {}
        for at in moved:
            file.seek(at)
            true[at] = file.read(SECTOR).ljust(SECTOR, b"\0")
        for at in moved:
            put(at, rng.choice([rng.randbytes(SECTOR), bytes(SECTOR)]))
        # Each sector is written once or twice; the last write is the true one.
        writes = [(at, rng.randbytes(SECTOR)) for at in moved if rng.random() < 0.4]
        rng.shuffle(writes)
        writes += [(at, true[at]) for at in rng.sample(moved, len(moved))]
        entries = []
        while writes:
            count = rng.randrange(0, 12)
            entries.append(writes[:count])
            writes = writes[count:]
        grown = self.end + rng.choice([0, 5]) * MIB
        file_size = self.end
        number = rng.randrange(1, 1 << 62) if rng.random() < 0.5 else rng.randrange(1, 100)
        at = rng.randrange(self.log_size // SECTOR) * SECTOR
        old_guid = uuid.UUID(int=rng.getrandbits(128))
        ring = bytearray(rng.randbytes(SECTOR) * (self.log_size // SECTOR))

        def store(at, entry):
            for step in range(0, len(entry), SECTOR):
                where = (at + step) % self.log_size
                ring[where : where + SECTOR] = entry[step : step + SECTOR]
            return (at + len(entry)) % self.log_size

        lie = [(self.at["bat"], b"\xff" * SECTOR)]
        # Older entries that were done with, of this log and of one before it, and a whole old sequence with higher numbers.
        at = store(at, self.entry(number, at, lie, log_guid, file_size, grown))
        other = (at + self.log_size // 2) % self.log_size
        store(other, self.entry(number + 1000, other, lie, old_guid, file_size, grown))
        number += rng.randrange(1, 3)
        tail = at
        for writes in entries:
            at = store(at, self.entry(number, tail, writes, log_guid, file_size, grown))
            number += 1
        torn = bytearray(self.entry(number, tail, lie, log_guid, file_size, grown))
        torn[rng.choice([20, 70, 5000, 8000])] ^= 1
        store(at, torn)
        put(self.at["log"], ring)

    def entry(self, number, tail, writes, log_guid, flushed, last):
        descriptors, data = b"", b""
        for at, sector in writes:
            if not any(sector) and self.rng.random() < 0.7:
                descriptors += struct.pack("<4sIQQQ", b"zero", 0, SECTOR, at, number)
            else:
                lead, trail = sector[:8], sector[-4:]
                descriptors += b"desc" + trail + lead + struct.pack("<QQ", at, number)
                data += b"data" + struct.pack("<I", number >> 32) + sector[8:-4] + struct.pack("<I", number & 0xFFFFFFFF)
        sectors = -(-(64 + len(descriptors)) // SECTOR)
        length = sectors * SECTOR + len(data)
        head = struct.pack("<4sIIIQII", b"loge", 0, length, tail, number, len(writes), 0) + log_guid.bytes_le
        head += struct.pack("<QQ", flushed, last)
        return sealed((head + descriptors).ljust(sectors * SECTOR, b"\0") + data)


def make_vhdx(folder, rng):
    logical = rng.choice([512, 512, 4096])
    physical = rng.choice([logical, 4096])
    block = rng.choice([1, 1, 2, 8, 32, 256]) * MIB
    # Sometimes more than one chunk, and nearly always an end in the middle of a block.
    size = block * rng.choice([1, 5, 17]) + rng.randrange(0, block // logical) * logical
    if rng.random() < 0.4:
        size = (1 << 23) * logical * rng.choice([1, 2]) + rng.randrange(1, 40) * logical
    raw, ranges, parent = None, [], None
    for index in range(rng.randrange(1, 5)):
        if index and rng.random() < 0.2:
            size += rng.randrange(1, 3000) * logical  # grown after the checkpoint
        raw = Disk(f"{folder}/{index}.raw", size, raw)
        image = Vhdx(rng, size, rng.choice([block, MIB * 2]) if index else block, logical, physical, parent)
        image.fill(raw)
        dirty = rng.random() < 0.6
        image.write(f"{folder}/{index}.vhdx", dirty)
        if not index and not dirty:
            open(f"{folder}/{index}.clean", "w").close()
        parent = (f"{index}.vhdx", image.data_write_guid)
        raw.file.flush()
        ranges += raw.ranges + [(rng.randrange(size // 512) * 512, 100_000) for _ in range(3)]
    return ranges


def vhd_checksum(record):
    return ~sum(record) & 0xFFFFFFFF


def vhd_footer(kind, size, header_at, unique):
    def record(total):
        return struct.pack(
            ">8sIIQI4sI4sQQHBBII16s", b"conectix", 2, 0x10000, header_at, 0, b"make", 1, b"Wi2k", size, size,
            0xFFFF, 16, 255, kind, total, unique.bytes,
        ).ljust(512, b"\0")

    return record(vhd_checksum(record(0)))


def vhd_header(table_at, entries, block, parent, locators):
    name = parent[0].encode("utf-16-be") if parent else b""
    unique = parent[1].bytes if parent else bytes(16)

    def record(total):
        head = struct.pack(">8sQQIIII16sII", b"cxsparse", (1 << 64) - 1, table_at, 0x10000, entries, block, total, unique, 0, 0)
        return (head + name.ljust(512, b"\0") + b"".join(locators)).ljust(1024, b"\0")

    return record(vhd_checksum(record(0)))


def make_vhd_image(rng, path, raw, size, block, parent, unique, fixed):
    with open(path, "w+b") as file:

        def put(at, data):
            file.seek(at)
            file.write(data)

        if fixed:
            for start, length in runs(rng, size // 512, 12):
                data = b"".join(pattern(rng, 512) for _ in range(length))
                raw.write(start * 512, data)
                put(start * 512, data)
            put(size, vhd_footer(2, size, (1 << 64) - 1, unique))
            return
        blocks = -(-size // block)
        entries = blocks + rng.choice([0, 3])
        header_at, table_at = 512, 512 + 1024
        end = -(-(table_at + entries * 4) // 512) * 512
        locators = []
        if parent:
            for code, text in [(b"W2ku", "C:\\elsewhere\\" + parent[0]), (b"W2ru", ".\\" + parent[0])]:
                data = text.encode("utf-16-le")
                put(end, data)
                locators.append(struct.pack(">4sIIIQ", code, 512, len(data), 0, end))
                end += 512
        table = [0xFFFFFFFF] * entries
        bitmap_size = -(-(block // 512 // 8) // 512) * 512
        for index in rng.sample(range(blocks), min(blocks, 10)):
            table[index] = end // 512
            bits, per_block = bytearray(bitmap_size), block // 512
            if parent:
                for start, length in runs(rng, per_block, 3):  # nobody may see these
                    put(end + bitmap_size + start * 512, b"\xee" * (length * 512))
            else:
                bits = bytearray(rng.choice([b"\xff", b"\0"]) * bitmap_size)  # readers differ; the data is what counts
            for start, length in runs(rng, per_block, 6):
                length = min(length, max(0, (size - index * block) // 512 - start))
                data = b"".join(pattern(rng, 512) for _ in range(length))
                for sector in range(start, start + length):
                    bits[sector // 8] |= 0x80 >> sector % 8
                put(end + bitmap_size + start * 512, data)
                raw.write(index * block + start * 512, data)
            put(end, bytes(bits))
            end += bitmap_size + block + rng.choice([0, 512])
        footer = vhd_footer(4 if parent else 3, size, header_at, unique)
        put(0, footer)
        put(header_at, vhd_header(table_at, entries, block, parent, locators))
        put(table_at, struct.pack(">%dI" % entries, *table))
        put(end, footer if rng.random() < 0.8 else bytes(512))


def make_vhd(folder, rng):
    block = rng.choice([512 << 10, 512 << 10, 2 << 20, 2 << 20, 16 << 20])
    size = block * rng.choice([1, 7, 40]) + rng.randrange(1, block // 512) * 512
    raw, ranges, parent = None, [], None
    for index in range(rng.randrange(1, 5)):
        raw = Disk(f"{folder}/{index}.raw", size, raw)
        unique = uuid.UUID(int=rng.getrandbits(128))
        fixed = index == 0 and rng.random() < 0.3
        make_vhd_image(rng, f"{folder}/{index}.vhd", raw, size, block, parent, unique, fixed)
        if not index:
            open(f"{folder}/{index}.clean", "w").close()
        parent = (f"{index}.vhd", unique)
        raw.file.flush()
        ranges += raw.ranges + [(rng.randrange(size // 512) * 512, 100_000) for _ in range(3)]
    return ranges


def main():
    kind, folder, seed = sys.argv[1], sys.argv[2], sys.argv[3]
    rng = random.Random(f"{kind} {seed}")
    ranges = {"vhdx": make_vhdx, "vhd": make_vhd}[kind](folder, rng)
    with open(os.path.join(folder, "ranges.txt"), "w") as file:
        file.writelines(f"{offset} {length}\n" for offset, length in sorted(set(ranges)))


main()
