"""Seals the golden objects of this folder with code that shares nothing with src/format.

    python src/format/testdata/make_sealed.py     (needs the package `cryptography`)

Written from docs/chunk_format.md, section 9. golden_test.cc opens what this wrote: key 7 of bytes
00 01 .. 1f, fixed nonces. Run it again only after a deliberate change of the format.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FOLDER = Path(__file__).parent
KEY_ID, KEY = 7, bytes(range(32))
ALGORITHMS = {"gmac": 1, "aes-256-gcm": 2}
HEADER, ENTRY = 128, 12


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class Sealer:
    def __init__(self, name: str, algorithm: int, nonce: bytes) -> None:
        chunk_key = bytes.fromhex(re.search(r"\{([0-9a-f]{64})\}", name)[1])
        info = b"object" + bytes([algorithm]) + chunk_key
        self.cipher = AESGCM(HKDF(SHA256(), 32, b"shadowserve seal v1", info).derive(KEY))
        self.algorithm, self.nonce = algorithm, nonce

    def auth(self, tag: bytes) -> bytes:
        return tag + self.nonce + struct.pack("<IB7x", KEY_ID, self.algorithm)

    def seal(self, number: int, covered: bytes, payload: bytes) -> tuple[bytes, bytes]:
        """Payload as stored, tag."""
        tail = struct.unpack("<I", self.nonce[8:])[0] ^ number
        nonce = self.nonce[:8] + struct.pack("<I", tail)
        if self.algorithm == 1:
            return payload, self.cipher.encrypt(nonce, b"", covered + payload)
        sealed = self.cipher.encrypt(nonce, payload, covered)
        return sealed[:-16], sealed[-16:]


def in_tag(name: str) -> bytes:
    return struct.pack("<I", len(name)) + name.encode()


def seal_segment(name: str, plain: bytes, sealer: Sealer) -> bytes:
    (blocks,) = struct.unpack_from("<I", plain, 28)
    (side_bytes,) = struct.unpack_from("<Q", plain, 32)
    elements = 256 * 2  # of the one block of a head of one dimension, as in all golden segments
    profile = name.split(":")[2].split(".")[0]
    plain_bytes = {"raw": 0, "lossless": elements, "q8": 0, "balanced": 0}[profile]
    at = HEADER + blocks * ENTRY
    side, at = plain[at : at + side_bytes], at + side_bytes
    table = tags = body = b""
    for block in range(blocks):
        coded, _, codec = struct.unpack_from("<IIB", plain, HEADER + block * ENTRY)
        stored, tag = sealer.seal(block + 1, b"", plain[at : at + plain_bytes + coded])
        at += plain_bytes + coded
        table += struct.pack("<IIB3x", coded, crc32c(stored), codec)
        tags += tag
        body += stored
    assert at == len(plain) and blocks == 1
    total = HEADER + len(table) + len(tags) + side_bytes + len(body)
    front = plain[:40] + struct.pack("<Q", total) + plain[48:80]
    covered = in_tag(name) + front + sealer.auth(bytes(16)) + bytes(8) + table + tags
    side, tag = sealer.seal(0, covered, side)
    head = front + sealer.auth(tag) + struct.pack("<I", crc32c(side))
    return head + struct.pack("<I", crc32c(head + table + tags)) + table + tags + side + body


def seal_marker(name: str, plain: bytes, segment: bytes, sealer: Sealer) -> bytes:
    front = plain[:8] + struct.pack("<Q", len(segment)) + segment[124:128] + plain[20:56]
    _, tag = sealer.seal(0, in_tag(name) + front + sealer.auth(bytes(16)) + bytes(32), b"")
    marker = front + sealer.auth(tag) + bytes(28)
    return marker + struct.pack("<I", crc32c(marker))


def load(path: Path) -> tuple[str, bytes]:
    name, *lines = path.read_text().split()
    return name, bytes.fromhex("".join(lines))


def save(path: Path, name: str, data: bytes) -> None:
    lines = [data[at : at + 32].hex() for at in range(0, len(data), 32)]
    path.write_text("\n".join([name, *lines, ""]))


def main() -> None:
    for path in sorted(FOLDER.glob("*.segment.hex")):
        golden = path.name.removesuffix(".segment.hex")
        if "." in golden:
            continue  # a sealed one
        for word, number in ALGORITHMS.items():
            name, plain = load(path)
            segment = seal_segment(name, plain, Sealer(name, number, bytes(range(100, 112))))
            save(FOLDER / f"{golden}.{word}.segment.hex", name, segment)
            name, plain = load(FOLDER / f"{golden}.marker.hex")
            marker = seal_marker(name, plain, segment, Sealer(name, number, bytes(range(200, 212))))
            save(FOLDER / f"{golden}.{word}.marker.hex", name, marker)


if __name__ == "__main__":
    main()
