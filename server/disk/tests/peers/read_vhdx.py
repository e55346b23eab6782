#!/usr/bin/env python3
"""Reads a VHDX without a parent into a sparse raw file, strictly after MS-VHDX 8.0, and says what it is.

Shares nothing with the writer it judges. `read_vhdx.py IMAGE RAW` prints `logical physical block fixed disk-id`.
"""

import struct
import sys
import uuid

MIB = 1 << 20


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def check(condition, what):
    if not condition:
        sys.exit(f"not sound: {what}")


def main():
    file, raw = open(sys.argv[1], "rb"), open(sys.argv[2], "wb")
    file_size = file.seek(0, 2)

    def read(at, length):
        file.seek(at)
        data = file.read(length)
        check(len(data) == length, f"{length} bytes at {at}")
        return data

    def record(at, length, signature):
        data = read(at, length)
        check(data[:4] == signature, f"signature at {at}")
        check(struct.unpack_from("<I", data, 4)[0] == crc32c(data[:4] + bytes(4) + data[8:]), f"checksum at {at}")
        return data

    check(read(0, 8) == b"vhdxfile", "file identifier")
    headers = [record(at, 4096, b"head") for at in (65536, 131072)]
    numbers = [struct.unpack_from("<Q", header, 8)[0] for header in headers]
    check(numbers[0] != numbers[1], "sequence numbers")
    header = headers[numbers.index(max(numbers))]
    check(headers[0][16:80] == headers[1][16:80] and not any(header[80:]), "headers")
    check(any(header[16:32]) and any(header[32:48]) and not any(header[48:64]), "ids")
    log_version, version, log_length, log_at = struct.unpack_from("<HHIQ", header, 64)
    check((log_version, version) == (0, 1) and log_length and log_length % MIB == 0, "versions, log")
    tables = [record(at, 65536, b"regi") for at in (196608, 262144)]
    check(tables[0] == tables[1], "region tables")
    taken, regions = [(0, MIB), (log_at, log_length)], {}
    for index in range(struct.unpack_from("<I", tables[0], 8)[0]):
        entry = tables[0][16 + 32 * index :][:32]
        at, length, required = struct.unpack_from("<QII", entry, 16)
        check(required == 1, "required")
        regions[str(uuid.UUID(bytes_le=entry[:16]))] = (at, length)
        taken.append((at, length))
    bat_at, bat_length = regions["2dc27766-f623-4200-9d64-115e9bfd4a08"]
    metadata_at, metadata_length = regions["8b7ca206-4790-4b9a-b8fe-575f050f886e"]
    table = read(metadata_at, 65536)
    check(table[:10] == b"metadata\0\0" and not any(table[12:32]), "metadata table")
    items, used = {}, []
    for index in range(struct.unpack_from("<H", table, 10)[0]):
        entry = table[32 + 32 * index :][:32]
        at, length, flags, reserved = struct.unpack_from("<IIII", entry, 16)
        check(at >= 65536 and at + length <= metadata_length and reserved == 0, "metadata item")
        items[str(uuid.UUID(bytes_le=entry[:16]))[:8]] = (flags, read(metadata_at + at, length))
        used.append((at, length))
    check(all(a + n <= b for (a, n), (b, _) in zip(sorted(used), sorted(used)[1:])), "items apart")
    flags = {name: value[0] for name, value in items.items()}
    check(flags == {"caa16737": 4, "2fa54224": 6, "beca12ab": 6, "8141bf1d": 6, "cda348c7": 6}, "items")
    block, parameters = struct.unpack("<II", items["caa16737"][1])
    (size,) = struct.unpack("<Q", items["2fa54224"][1])
    (logical,), (physical,) = struct.unpack("<I", items["8141bf1d"][1]), struct.unpack("<I", items["cda348c7"][1])
    check(size % logical == 0 and parameters in (0, 1), "parameters")
    raw.truncate(size)
    blocks, ratio = -(-size // block), (1 << 23) * logical // block
    entries = blocks + (blocks - 1) // ratio
    check(entries * 8 <= bat_length, "room for the block table")
    bat = struct.unpack(f"<{entries}Q", read(bat_at, entries * 8))
    index = 0
    for place, entry in enumerate(bat):
        if place % (ratio + 1) == ratio:
            check(entry == 0, "bitmap entry")
            continue
        state, at = entry & 7, entry & ~(MIB - 1)
        check(entry == state | at, "reserved bits")
        if state == 6:
            taken.append((at, block))
            for step in range(0, min(block, size - index * block), MIB):
                data = read(at + step, min(MIB, size - index * block - step))
                if any(data):
                    raw.seek(index * block + step)
                    raw.write(data)
        else:
            check(entry == 2 and not parameters, "state")
        index += 1
    check(index == blocks, "number of blocks")
    taken.sort()
    check(all(at % MIB == 0 for at, _ in taken), "alignment")
    check(all(a + n <= b for (a, n), (b, _) in zip(taken, taken[1:])), "overlap")
    check(sum(taken[-1]) <= file_size, "end of the file")
    print(logical, physical, block, parameters, uuid.UUID(bytes_le=items["beca12ab"][1]))


main()
