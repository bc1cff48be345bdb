r"""Encrypt the payloads of dead letters: an unreadable payload may hold anybody's name, and has no columns to drop.

AES-256-GCM with a key of its own, derived from the key of the pseudonyms (`Pseudonyms.derive`); the stream, the source
partition and the offset are authenticated with it, so that a payload cannot be put beside another reason unnoticed. The
bytes:

    "MSL1" | length of the key id | key id | nonce (12) | ciphertext and tag

The nonce is not random but computed: the first 96 bits of HMAC-SHA256 over everything that is encrypted. So a replay
after a crash writes the same bytes, as every sink here must. The nonce repeats only if the whole message does, which is
harmless. Among 2^32 messages, the most a key should be used for, two different ones share a nonce with a probability of
2^-33.

    >>> cipher = PayloadCipher("payments", Pseudonyms("k1", bytes(range(32))))
    >>> encrypted = cipher.encrypt(b'{"name": "Ada"', "bus:payments:0", 7)
    >>> encrypted[:7], cipher.decrypt(encrypted, "bus:payments:0", 7)
    (b'MSL1\x02k1', b'{"name": "Ada"')
"""

from __future__ import annotations

import hmac
from typing import Final

import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from feature_repo.errors import DataError
from feature_repo.privacy import Pseudonyms

MAGIC: Final = b"MSL1"
_NONCE_BYTES: Final = 12


class PayloadCipher:
    """Encrypts and decrypts the payloads of one stream.

    Needs a key; `flows.log.dead_letters` describes what happens without.
    """

    def __init__(self, stream: str, pseudonyms: Pseudonyms) -> None:
        self._stream = stream.encode()
        self._key_id = pseudonyms.key_id.encode()
        self._cipher = AESGCM(pseudonyms.derive("dead letters: cipher"))
        self._nonce_key = pseudonyms.derive("dead letters: nonce")

    def encrypt(self, payload: bytes, partition: str, offset: int) -> bytes:
        """Return the encrypted bytes, the same for the same arguments; about 8 us."""
        place = self._place(partition, offset)
        nonce = hmac.digest(self._nonce_key, place + payload, "sha256")[:_NONCE_BYTES]
        header = MAGIC + bytes([len(self._key_id)]) + self._key_id + nonce
        return header + self._cipher.encrypt(nonce, payload, place)

    def decrypt(self, encrypted: bytes, partition: str, offset: int) -> bytes:
        """Return the payload; bytes that are not encrypted are returned unchanged.

        Raises `DataError` for another key or altered bytes.
        """
        key_id = key_of(encrypted)
        if key_id is None:
            return encrypted
        where = f"{partition}, offset {offset}"
        if key_id != self._key_id.decode():
            raise DataError(
                f"this payload was encrypted with the key {key_id!r}",
                where=where,
                todo="set MILLSTREAM_PSEUDONYM_KEY to that key",
            )
        at = len(MAGIC) + 1 + len(self._key_id)
        nonce, text = encrypted[at : at + _NONCE_BYTES], encrypted[at + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, text, self._place(partition, offset))
        except (InvalidTag, ValueError):
            raise DataError(
                "this payload was altered, or encrypted with another key of the same id",
                where=where,
                todo="set MILLSTREAM_PSEUDONYM_KEY to the key it was encrypted with",
            ) from None

    def _place(self, partition: str, offset: int) -> bytes:
        """Return the authenticated data: each part after its length, so that no two places have the same bytes."""
        parts = (self._stream, partition.encode())
        return b"".join(len(p).to_bytes(4, "big") + p for p in parts) + offset.to_bytes(8, "big", signed=True)


def key_of(payload: bytes) -> str | None:
    """Return the id of the key a payload is encrypted with, None if it is not encrypted."""
    if not payload.startswith(MAGIC) or len(payload) <= len(MAGIC):
        return None
    at = len(MAGIC) + 1
    return payload[at : at + payload[len(MAGIC)]].decode("ascii", "replace")


def encrypt_payloads(letters: pa.RecordBatch, cipher: PayloadCipher) -> pa.RecordBatch:
    """Return dead letters (schema `flows.blocks.DEAD_LETTER`) with encrypted payloads."""
    columns = (letters["payload"], letters["source_partition"], letters["source_offset"])
    encrypted = [
        None if payload is None else cipher.encrypt(payload, partition, offset)
        for payload, partition, offset in zip(*(c.to_pylist() for c in columns), strict=True)
    ]
    return with_payloads(letters, encrypted)


def with_payloads(letters: pa.RecordBatch, payloads: list[bytes | None]) -> pa.RecordBatch:
    """Return the letters with other payloads."""
    arrays = list(letters.columns)
    arrays[letters.schema.get_field_index("payload")] = pa.array(payloads, pa.binary())
    return pa.RecordBatch.from_arrays(arrays, schema=letters.schema)
