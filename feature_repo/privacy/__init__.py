"""Pseudonyms for values that identify a person: a keyed hash, made on ingestion, the same in flow and scorer.

A pseudonym is `<key id>_<26 characters>`: the first 128 bits of HMAC-SHA256(key, domain, 0, value), in lower-case
base32. Without the key nobody can compute it or try candidates. With it the same value always has the same pseudonym,
so joins, windows and look-ups work as on plain values. Values are hashed as they are: no trimming, no case folding.

The policy of a stream is part of its declaration (`personal` in `feature_repo/streams/*.py`) and says per column
whether it is dropped or replaced. Account and payee share one domain, because the payee of a transfer is an account.

Every value is hashed, also a text that looks like a pseudonym: otherwise a sender could choose somebody else's
pseudonym. So data that is pseudonymous already needs the setting `off`; nothing is guessed.

    >>> made = Pseudonyms("k1", bytes(range(32)))
    >>> made.of("A000123", PARTY)
    'k1_mkbowlonkuzkep7l6ze26aewwi'
    >>> made
    Pseudonyms('k1')
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, Self

import numpy as np
import pyarrow as pa

from feature_repo.errors import SettingsError
from feature_repo.privacy.policy import DROP, PARTY, PSEUDONYM, domain_of
from feature_repo.settings import RepoSettings

__all__ = ["DROP", "PARTY", "PSEUDONYM", "Pseudonyms", "apply", "domain_of", "of_settings", "pseudonym"]

VARIABLE: Final = "MILLSTREAM_PSEUDONYM_KEY"
OFF: Final = "off"
KEY_BYTES: Final = 32
"""Least length of a key: that of the hash."""
KEY_FILE: Final = "pseudonyms.json"
"""File of a home with the id and a fingerprint of the key its data was written with; it does not reveal the key."""

_KEY_ID: Final = re.compile(r"[a-z0-9]{1,8}")
_ALPHABET: Final = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", np.uint8)
_CHARACTERS: Final = 26
_FEW: Final = 16
_TODO: Final = (
    "run `make key`, which writes one into .env, or export "
    f"{VARIABLE}=<key id>:<base64 of {KEY_BYTES} random bytes>; `{OFF}` is for data that is pseudonymous already"
)


class Pseudonyms:
    """Makes pseudonyms with one key, and caches the latest, so that a busy account costs a look-up and no hash.

    Without a key (`Pseudonyms.off()`) parties keep their ids and all other personal values become null. Safe to share
    between threads. `repr` does not show the key, and pickling raises TypeError.
    """

    def __init__(self, key_id: str, key: bytes, *, room: int = 400_000) -> None:
        """`room` bounds the pseudonyms cached per domain (about 250 bytes each).

        Raises `SettingsError` for a key that is too short.
        """
        if not _KEY_ID.fullmatch(key_id):
            raise SettingsError(
                "a key id has 1 to 8 characters, a to z and 0 to 9", where=VARIABLE, todo=_TODO
            )
        if len(key) < KEY_BYTES:
            raise SettingsError(
                f"the key has {len(key)} bytes, at least {KEY_BYTES} are needed", where=VARIABLE, todo=_TODO
            )
        self.key_id = key_id
        self._key = key
        self._prefix = f"{key_id}_"
        self._half = max(room // 2, 1)
        self._young: dict[str, dict[str, str]] = {}
        self._old: dict[str, dict[str, str]] = {}
        self._states: dict[str, hmac.HMAC] = {}

    @classmethod
    def off(cls) -> Self:
        """Make pseudonyms without a key, for data that is pseudonymous already."""
        made = cls("off", bytes(KEY_BYTES))
        made.key_id, made._key = "", b""
        return made

    @classmethod
    def from_setting(cls, text: str) -> Self:
        """Read `<key id>:<base64>` or `off`. Raises `SettingsError`, which does not repeat the text."""
        text = text.strip()
        if text == OFF:
            return cls.off()
        key_id, colon, encoded = text.partition(":")
        try:
            key = base64.b64decode(encoded.translate(str.maketrans("-_", "+/")), validate=True)
        except (binascii.Error, ValueError):
            colon = ""
        if not colon:
            raise SettingsError("the key for pseudonyms cannot be read", where=VARIABLE, todo=_TODO) from None
        return cls(key_id, key)

    @property
    def keyed(self) -> bool:
        """Whether there is a key; without one, nothing can be replaced or encrypted."""
        return bool(self._key)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that differ between keys, whatever their ids; empty without a key."""
        return self.derive("fingerprint")[:8].hex() if self.keyed else ""

    def of(self, value: str, domain: str) -> str:
        """Return the pseudonym of one value. Without a key: a party unchanged, else raises `SettingsError`."""
        if not self.keyed:
            if domain != PARTY:
                raise SettingsError(
                    f"there is no pseudonym of this {domain} without a key", where=VARIABLE, todo=_TODO
                )
            return value
        known = self._young.get(domain)
        found = known.get(value) if known is not None else None
        return found if found is not None else self._many([value], domain)[0]

    def column(self, values: pa.Array, domain: str) -> pa.Array:
        """Return a text column with every value replaced; nulls stay null.

        Without a key: parties unchanged, other domains null.
        """
        if not self.keyed:
            return values if domain == PARTY else pa.nulls(len(values), pa.string())
        encoded = values.dictionary_encode()
        texts = pa.array(
            self._many(encoded.dictionary.to_numpy(zero_copy_only=False).tolist(), domain), pa.string()
        )
        return pa.DictionaryArray.from_arrays(encoded.indices, texts).dictionary_decode()

    def derive(self, purpose: str) -> bytes:
        """Derive 32 bytes for another purpose from the key (HKDF-SHA256, RFC 5869).

        Raises `SettingsError` without a key.
        """
        if not self.keyed:
            raise SettingsError(f"there is no key for {purpose}", where=VARIABLE, todo=_TODO)
        extracted = hmac.digest(b"millstream", self._key, "sha256")
        return hmac.digest(extracted, purpose.encode() + b"\x01", "sha256")

    def _many(self, values: list[str], domain: str) -> list[str]:
        young, old = self._young.get(domain), self._old.get(domain, {})
        if young is None:
            young = self._young.setdefault(domain, {})
        found = list(map(young.get, values))
        if None not in found:
            return found  # type: ignore[return-value]  # mypy cannot see that no None is left
        new: dict[str, str] = {}
        fresh = []
        for value, text in zip(values, found, strict=True):
            if text is None:
                before = old.get(value)
                if before is None:
                    fresh.append(value)
                else:
                    new[value] = before
        new.update(zip(fresh, self._texts(fresh, domain), strict=True))
        young.update(new)
        if (
            len(young) > self._half
        ):  # the two latest halves of the room: a least-recently-used list, roughly, for free
            self._old[domain], self._young[domain] = young, {}
        return [new[value] if text is None else text for value, text in zip(values, found, strict=True)]

    def _texts(self, values: list[str], domain: str) -> list[str]:
        """Compute pseudonyms; the HMAC state after the key and the domain is kept and copied for each value."""
        state = self._states.get(domain)
        if state is None:
            state = self._states.setdefault(domain, hmac.new(self._key, domain.encode() + b"\0", "sha256"))
        digests = []
        for value in values:
            mac = state.copy()
            mac.update(value.encode())
            digests.append(mac.digest()[:16])
        prefix = self._prefix
        return [prefix + text for text in _base32(digests)]

    def __repr__(self) -> str:
        return f"Pseudonyms({self.key_id or OFF!r})"

    def __reduce__(self) -> NoReturn:
        msg = "a key is never pickled: recovery state is made of pickles"
        raise TypeError(msg)


def of_settings(settings: RepoSettings) -> Pseudonyms:
    """Return the pseudonyms of the settings.

    Raises `SettingsError` without a key or `off`: the protection is never off by accident.
    """
    if settings.pseudonym_key is None:
        raise SettingsError("there is no key for pseudonyms", where=VARIABLE, todo=_TODO)
    return Pseudonyms.from_setting(settings.pseudonym_key.get_secret_value())


def pseudonym(value: str, domain: str = PARTY) -> str:
    """Return the pseudonym of a value, such as an account, with the key of the environment or `.env`."""
    return of_settings(RepoSettings()).of(value, domain)


def apply(policy: Mapping[str, str], rows: pa.RecordBatch, pseudonyms: Pseudonyms) -> pa.RecordBatch:
    """Apply a policy to rows: remove dropped columns, replace values of the others; the order of columns stays."""
    names, columns, fields = [], [], []
    for field, values in zip(rows.schema, rows.columns, strict=True):
        treatment = policy.get(field.name)
        if treatment == DROP:
            continue
        names.append(field.name)
        fields.append(field)
        columns.append(
            values if treatment is None else pseudonyms.column(values, domain_of(field.name, treatment))
        )
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, metadata=rows.schema.metadata))


def check_key(home: Path, pseudonyms: Pseudonyms, *, written: bool) -> None:
    """Compare the key with the one a home was written with, or note it in a new home: data of two keys does not join.

    `written`: whether the home has rows without a note, from before there were pseudonyms. Raises `SettingsError` for
    another key.
    """
    ours = {"key_id": pseudonyms.key_id or OFF, "fingerprint": pseudonyms.fingerprint}
    path = home / KEY_FILE
    theirs = read_key_note(home)
    if theirs is None and written and pseudonyms.keyed:
        theirs = {"key_id": OFF, "fingerprint": ""}
    if theirs is None:
        home.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{KEY_FILE}.{os.getpid()}")
        aside.write_text(json.dumps(ours) + "\n", encoding="utf-8")
        try:
            os.link(
                aside, path
            )  # unlike a rename it never replaces: of two flows that start at once, one notes its key
        except FileExistsError:
            theirs = read_key_note(home)
        finally:
            aside.unlink()
    require_same_key(home, pseudonyms, theirs)


def require_same_key(home: Path, pseudonyms: Pseudonyms, theirs: Mapping[str, Any] | None) -> None:
    """Raise `SettingsError` if a home's note (None: no note) is of another key."""
    if theirs is None or theirs["fingerprint"] == pseudonyms.fingerprint:
        return
    raise SettingsError(
        f"the data of this home was written with the key {theirs['key_id']!r}, this is another "
        f"({pseudonyms.key_id or OFF!r}): the same account would have two names",
        where=home,
        todo=f"set {VARIABLE} to that key (`{OFF}` if it was off), or take another home (MILLSTREAM_HOME)",
    )


def read_key_note(home: Path) -> dict[str, Any] | None:
    """Return the note of a home, None if there is none."""
    try:
        found: dict[str, Any] = json.loads((home / KEY_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found


def _base32(digests: list[bytes]) -> list[str]:
    """Return 26 lower-case characters per 16 bytes, as `base64.b32encode` does; many at once with NumPy."""
    if len(digests) < _FEW:
        return [base64.b32encode(d)[:_CHARACTERS].decode().lower() for d in digests]
    raw = np.zeros((20, len(digests)), np.uint64)
    raw[:16] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16).T
    letters = np.empty((len(digests), 32), np.uint8)
    for word in range(4):
        five = np.zeros(len(digests), np.uint64)
        for byte in raw[5 * word : 5 * word + 5]:
            five = (five << np.uint64(8)) | byte
        for letter in range(8):
            letters[:, 8 * word + letter] = _ALPHABET[(five >> np.uint64(35 - 5 * letter)) & np.uint64(31)]
    text = letters[:, :_CHARACTERS].tobytes().decode()
    return [text[at : at + _CHARACTERS] for at in range(0, len(text), _CHARACTERS)]
