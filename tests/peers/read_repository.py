#!/usr/bin/env python3
"""Reads a Stillframe repository in a folder, written from docs/repository-format.md alone, as its judge.

  read_repository.py FOLDER --passphrase-file FILE list
  read_repository.py FOLDER --passphrase-file FILE verify
  read_repository.py FOLDER --passphrase-file FILE restore --point UUID --disk KEY --output FILE

Needs Python 3.9 and the packages argon2-cffi, blake3, cryptography, zstandard.
"""
import argparse
import json
import os
import struct
import sys

import zstandard
from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HEADER, TAG, TRAILER, ENTRY, SLOT, GENERATION, GENERATIONS = 48, 16, 24, 44, 192, 64, 64
PAGE, BLOCK, FANOUT = 64 << 20, 4096, 256
ZERO = bytes(32)
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Broken(Exception):
    """The repository is not what the document says."""


class Void(Broken):
    """A manifest that is none, because the lease it was written under was declared dead."""


def check(condition, what):
    if not condition:
        raise Broken(what)


def derive(secret, salt, info):
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info.encode()).derive(secret)


def nonce(counter):
    return struct.pack("<I", counter) + bytes(8)


def open_sealed(key, counter, aad, sealed, what):
    try:
        return AESGCM(key).decrypt(nonce(counter), sealed, aad)
    except InvalidTag:
        raise Broken(f"{what} is not authentic") from None


def recovery_secret(text):
    """The 20 bytes of a recovery key, or None when the text is none."""
    digits = [c for c in text.upper().replace("O", "0").replace("I", "1").replace("L", "1") if c not in "- \t\r\n"]
    if len(digits) != 40 or any(c not in ALPHABET for c in digits):
        return None
    raw = b""
    for group in range(0, 40, 8):
        value = 0
        for digit in digits[group:group + 8]:
            value = value << 5 | ALPHABET.index(digit)
        raw += value.to_bytes(5, "big")
    secret, checked = raw[:20], raw[20:]
    check(blake3(b"stillframe 1 recovery check" + secret).digest()[:5] == checked, "mistyped recovery key")
    return secret


class Repository:
    def __init__(self, folder, passphrase):
        self.folder = folder
        config = self.read("config")
        self.id = self.header("config", config, b"SFCONFIG")[0]
        # One (data key, public signing key) for each generation.
        self.keys = self.unlock(passphrase)
        self.identity_keys = [derive(self.keys[0][0], self.id, f"stillframe 1 {kind} id") for kind in ("data", "map")]
        self.config = json.loads(self.sealed("config", b"SFCONFIG", "config"))
        check(bytes.fromhex(self.config["signing_public_key"]) == self.keys[0][1], "config: another signing key")
        self.index = {}
        self.packs = {}
        # What was read last: its place, and its content.
        self.opened = (None, b"")
        self.unreadable = []
        self.load_index()

    def read(self, name, offset=0, length=-1):
        with open(os.path.join(self.folder, *name.split("/")), "rb") as file:
            file.seek(offset)
            data = file.read(length)
        check(length < 0 or len(data) == length, f"{name} is too short")
        return data

    def names(self, prefix):
        top = os.path.join(self.folder, prefix)
        found = []
        for folder, _, files in os.walk(top):
            for file in files:
                found.append(os.path.relpath(os.path.join(folder, file), self.folder).replace(os.sep, "/"))
        return sorted(found)

    def header(self, name, data, magic):
        check(data[:8] == magic, f"{name}: wrong magic")
        version, flags = struct.unpack_from("<II", data, 8)
        check(version == 1, f"{name}: version {version}")
        repository, identity = data[16:32], data[32:48]
        check(not hasattr(self, "id") or repository == self.id, f"{name}: of another repository")
        return repository, identity, flags

    def object_key(self, name, generation, identity, purpose):
        check(generation < len(self.keys), f"{name}: sealed with generation {generation}, which this key slot lacks")
        return derive(self.keys[generation][0], identity, f"stillframe 1 {purpose}")

    def unlock(self, passphrase):
        recovery = recovery_secret(passphrase)
        slots = [(self.read(name), name) for name in self.names("keys")]
        faults = []
        # The longest first: they have the newest generation.
        for slot, name in sorted(slots, key=lambda found: -len(found[0])):
            try:
                keys = self.open_slot(slot, name, passphrase, recovery)
            except Broken as fault:
                faults.append(str(fault))
                continue
            if keys is not None:
                return keys
        raise Broken("; ".join(["the passphrase opens no key slot", *faults]))

    def open_slot(self, slot, name, passphrase, recovery):
        newest = (len(slot) - SLOT) // GENERATION
        check(0 <= newest < GENERATIONS and len(slot) == SLOT + GENERATION * newest, f"{name}: wrong length")
        check(blake3(slot[:-32]).digest() == slot[-32:], f"{name}: wrong checksum")
        _, identity, kind = self.header(name, slot, b"SFKEY\0\0\0")
        check(name == f"keys/{identity.hex()}", f"{name}: another slot's name")
        memory, passes, lanes, found = struct.unpack_from("<IIII", slot, 48)
        check(found == newest and kind in (1, 2), f"{name}: unknown kind, or generations that do not fit its length")
        salt = slot[64:80]
        if kind == 1:
            check(1 <= memory <= 1 << 20 and 1 <= passes <= 64 and 1 <= lanes <= 16, f"{name}: cost")
            key = hash_secret_raw(passphrase.encode(), salt, passes, memory, lanes, 32, Type.ID, 0x13)
        elif recovery is not None:
            key = derive(recovery, salt, "stillframe 1 recovery")
        else:
            return None
        try:
            secrets = AESGCM(key).decrypt(nonce(0), slot[80:-32], slot[:80])
        except InvalidTag:
            return None
        keys = []
        for at in range(0, len(secrets), GENERATION):
            signer = Ed25519PrivateKey.from_private_bytes(secrets[at + 32:at + 64]).public_key()
            keys.append((secrets[at:at + 32], signer.public_bytes(Encoding.Raw, PublicFormat.Raw)))
        return keys

    def sealed(self, name, magic, purpose):
        data = self.read(name)
        _, identity, generation = self.header(name, data, magic)
        key = self.object_key(name, generation, identity, purpose)
        return open_sealed(key, 0, data[:HEADER] + name.encode(), data[HEADER:], name)

    # --- packs and index

    def pack_name(self, pack):
        return f"packs/{pack.hex()[:2]}/{pack.hex()}"

    def add_pack(self, pack, generation, entries):
        if pack in self.packs:
            return
        check(len(entries) % ENTRY == 0, "entries")
        places, offset = [], HEADER
        for frame, chunks in self.frames(entries):
            skip, content = 0, sum(length for _, length in chunks)
            for identity, length in chunks:
                places.append((identity, (pack, generation, offset, *frame, content, skip, length)))
                skip += length
            offset += frame[1] + TAG
        for identity, place in places:
            self.index.setdefault(identity, []).append(place)
        self.packs[pack] = offset

    def frames(self, entries):
        """((ordinal, stored length, codec, kind), [(identity, length)]): what is sealed together in a pack."""
        frames = []
        for ordinal in range(len(entries) // ENTRY):
            identity, length, stored, codec, kind, zero = struct.unpack_from("<32sIIBBH", entries, ordinal * ENTRY)
            check(1 <= length <= 4 << 20 and kind <= 1 and zero == 0, "pack entry")
            if codec == 2 and stored == 0:
                check(frames and frames[-1][0][2] == 2, "an entry that goes on with a frame, and none before it")
                frames[-1][1].append((identity, length))
            else:
                frames.append(((ordinal, stored, codec, kind), [(identity, length)]))
        for (_, stored, codec, kind), chunks in frames:
            lengths = [length for _, length in chunks]
            content = sum(lengths)
            check(codec in (0, 1, 2), "codec")
            check(codec != 0 or stored == content, "raw entry")
            check(codec != 1 or 1 <= stored <= content, "zstd entry")
            if codec == 2:
                whole = kind == 0 and all(length % BLOCK == 0 for length in lengths)
                check(whole and len(chunks) <= 64 and stored < content <= 512 << 10, "shared frame")
        return frames

    def load_index(self):
        """What cannot be read of it is left out: a chunk that is in nothing else is missing then."""
        for name in self.names("index"):
            try:
                self.add_segment(name)
            except (Broken, OSError) as fault:
                self.unreadable.append(str(fault))
        for name in self.names("packs"):
            try:
                pack = bytes.fromhex(name.rsplit("/", 1)[1])
                check(name == self.pack_name(pack), f"{name}: name")
                if pack not in self.packs:
                    self.add_pack(pack, *self.footer(name, pack))
            except (Broken, OSError, ValueError) as fault:
                self.unreadable.append(str(fault))

    def add_segment(self, name):
        data = self.sealed(name, b"SFINDEX\0", "index")
        count, at = struct.unpack_from("<I", data)[0], 4
        for _ in range(count):
            pack, _, word = struct.unpack_from("<16sQI", data, at)
            generation, entries = word >> 24, word & 0xFFFFFF
            at += 28
            self.add_pack(pack, generation, data[at:at + entries * ENTRY])
            at += entries * ENTRY
        check(at == len(data), f"{name}: length")

    def footer(self, name, pack):
        size = os.path.getsize(os.path.join(self.folder, *name.split("/")))
        head = self.read(name, 0, HEADER)
        _, identity, generation = self.header(name, head, b"SFPACK\0\0")
        check(identity == pack, f"{name}: id")
        trailer = self.read(name, size - TRAILER, TRAILER)
        count, length, total, magic = struct.unpack("<IIQ8s", trailer)
        check(magic == b"SFPKEND\0" and total == size and length == count * ENTRY + TAG, f"{name}: trailer")
        sealed = self.read(name, size - TRAILER - length, length)
        key = self.object_key(name, generation, pack, "pack")
        entries = open_sealed(key, 2**32 - 1, head + trailer, sealed, f"{name} (footer)")
        end = HEADER + sum(stored + TAG for (_, stored, _, _), _ in self.frames(entries))
        check(end + length + TRAILER == size, f"{name}: lengths")
        return generation, entries

    def chunk(self, identity, kind):
        """From the first of its places that is sound."""
        fault = Broken(f"chunk {identity.hex()} is missing")
        for place in self.index.get(identity, []):
            try:
                return self.chunk_at(identity, kind, *place)
            except (Broken, OSError) as found:
                fault = found
        raise fault

    def chunk_at(self, identity, kind, pack, generation, offset, ordinal, stored, codec, found, whole, skip, length):
        check(found == kind, "kind of chunk")
        what = f"{self.pack_name(pack)} chunk {ordinal}"
        # Chunks that share a frame are mostly asked for one after the other.
        if self.opened[0] != (pack, offset):
            sealed = self.read(self.pack_name(pack), offset, stored + TAG)
            key = self.object_key(what, generation, pack, "pack")
            content = open_sealed(key, ordinal, self.id + pack + struct.pack("<I", ordinal), sealed, what)
            if codec != 0:
                content = zstandard.ZstdDecompressor().decompress(content, max_output_size=whole)
            check(len(content) == whole, f"{what}: length")
            self.opened = ((pack, offset), content)
        content = self.opened[1][skip:skip + length]
        check(blake3(content, key=self.identity_keys[kind]).digest() == identity, f"{what}: identity")
        return content

    # --- points and maps

    def point(self, uuid):
        name = f"points/{uuid}"
        payload = self.sealed(name, b"SFPOINT\0", "point")
        length = struct.unpack_from("<I", payload)[0]
        body, signature = payload[4:4 + length], payload[4 + length:]
        identity, generation = self.read(name, 32, 16), self.generation(name)
        try:
            message = b"stillframe 1 point" + self.id + identity + body
            Ed25519PublicKey.from_public_bytes(self.keys[generation][1]).verify(signature, message)
        except InvalidSignature:
            raise Broken(f"{name}: signature") from None
        manifest = json.loads(body)
        check(manifest["id"] == uuid, f"{name}: id")
        if self.is_void(manifest.get("lease")):
            raise Void(f"{name}: its lease is void")
        before = manifest["predecessor"]
        if before is not None:
            path = os.path.join(self.folder, "points", before["point"])
            if os.path.exists(path):
                found = blake3(self.read(f"points/{before['point']}")).hexdigest()
                check(found == before["manifest_hash"], f"{name}: predecessor was exchanged")
                older = self.generation(f"points/{before['point']}")
                check(older <= generation, f"{name}: sealed with older keys than its predecessor")
        return manifest

    def generation(self, name):
        return struct.unpack("<I", self.read(name, 12, 4))[0]

    def is_void(self, lease):
        name = f"voids/{lease}"
        if lease is None or not os.path.exists(os.path.join(self.folder, name)):
            return False
        try:
            self.sealed(name, b"SFVOID\0\0", "void")
        except Broken:
            return False
        return True

    def points(self):
        """Those that are points, whether sound or not."""
        found = []
        for name in self.names("points"):
            uuid = name.rsplit("/", 1)[1]
            try:
                self.point(uuid)
            except Void:
                continue
            except (Broken, OSError):
                pass
            found.append(uuid)
        return found

    def chunks(self, size, level, index, identity):
        """(offset, length, identity) of the data chunks below a node."""
        span = PAGE * FANOUT**level
        if identity == ZERO:
            return
        node = self.chunk(identity, 1)
        check(node[:3] == b"SFN" and node[3] == level, "map node")
        count = struct.unpack_from("<I", node, 4)[0]
        start = index * span
        if level > 0:
            below = span // FANOUT
            check(count == min(FANOUT, -(-size // below) - FANOUT * index), "number of children")
            check(len(node) == 8 + 32 * count, "length of inner node")
            for child in range(count):
                below_id = node[8 + 32 * child:40 + 32 * child]
                yield from self.chunks(size, level - 1, index * FANOUT + child, below_id)
            return
        check(len(node) == 8 + 36 * count, "length of leaf")
        at = 0
        for entry in range(count):
            length, found = struct.unpack_from("<I32s", node, 8 + 36 * entry)
            check(length > 0 and (at + length) % BLOCK in (0, size % BLOCK), "leaf entry")
            if found != ZERO:
                yield start + at, length, found
            at += length
        check(at == min(PAGE, size - start), "length of page")

    def chunks_of(self, disk):
        size, level = disk["size_bytes"], 0
        while PAGE * FANOUT**level < size:
            level += 1
        return self.chunks(size, level, 0, bytes.fromhex(disk["map_root"]))

    def verify(self):
        """Everything points need, each chunk once: points, chunks and bytes checked, and what is wrong."""
        seen, bytes_read, faults = set(), 0, list(self.unreadable)
        for name, digest in self.config["documents"].items():
            if blake3(self.read(name)).hexdigest() != digest:
                faults.append(f"{name}: not the text that was written")
        points = 0
        for uuid in self.points():
            points += 1
            try:
                for disk in self.point(uuid)["disks"]:
                    for _, length, identity in self.chunks_of(disk):
                        if identity in seen:
                            continue
                        check(len(self.chunk(identity, 0)) == length, "length of chunk")
                        seen.add(identity)
                        bytes_read += length
            except (Broken, OSError) as fault:
                faults.append(f"point {uuid}: {fault}")
        return {"points": points, "chunks": len(seen), "bytes": bytes_read, "faults": faults}

    def restore(self, uuid, key, output):
        disk = next((disk for disk in self.point(uuid)["disks"] if disk["config"]["key"] == key), None)
        check(disk is not None, f"no disk {key}")
        with open(output, "xb") as file:
            file.truncate(disk["size_bytes"])
            for offset, length, identity in self.chunks_of(disk):
                content = self.chunk(identity, 0)
                check(len(content) == length, "length of chunk")
                file.seek(offset)
                file.write(content)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--passphrase-file", required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    commands.add_parser("verify")
    restore = commands.add_parser("restore")
    restore.add_argument("--point", required=True)
    restore.add_argument("--disk", type=int, required=True)
    restore.add_argument("--output", required=True)
    arguments = parser.parse_args()
    with open(arguments.passphrase_file, encoding="utf-8") as file:
        passphrase = file.read().rstrip("\r\n")
    try:
        repository = Repository(arguments.folder, passphrase)
        if arguments.command == "list":
            for uuid in repository.points():
                point = repository.point(uuid)
                disks = [(disk["config"]["key"], disk["size_bytes"]) for disk in point["disks"]]
                print(json.dumps({"id": point["id"], "machine": point["machine"]["name"], "disks": disks}))
        elif arguments.command == "verify":
            found = repository.verify()
            print(json.dumps(found))
            if found["faults"]:
                sys.exit("read_repository: the repository is damaged")
        else:
            repository.restore(arguments.point, arguments.disk, arguments.output)
    except (Broken, OSError) as error:
        sys.exit(f"read_repository: {error}")


if __name__ == "__main__":
    main()
