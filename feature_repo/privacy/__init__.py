"""Pseudonyms for what identifies a person: a keyed hash, the same in the flow and in the scorer, made where data comes in.

A pseudonym is `<key id>_<26 characters>`: the first 128 bits of HMAC-SHA256(key, domain, 0, value), in lower-case base32.
Without the key nobody can compute it or try candidates; with it the same value has the same pseudonym for ever, so joins,
windows and look-ups work as before. Values are taken as they are: no trimming, no case folding.

The policy of a stream is part of its declaration (`personal` in `feature_repo/streams/*.py`) and says per column whether it
is dropped or replaced. Account and payee share one domain, because the payee of a transfer is an account.

Whatever comes in is hashed, also a text that looks like a pseudonym: if such texts were let through, a sender could choose
the pseudonym of somebody else. Hence data that is pseudonymous already needs the setting `off`, not a guess.

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
"""Least length of a key, as long as what the hash gives."""
KEY_FILE: Final = "pseudonyms.json"
"""File of a home that says which key its data was written with: key id and a fingerprint, from which no key follows."""

_KEY_ID: Final = re.compile(r"[a-z0-9]{1,8}")
_ALPHABET: Final = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", np.uint8)
_CHARACTERS: Final = 26
_FEW: Final = 16
_TODO: Final = (
    "run `make key`, which writes one into .env, or export "
    f"{VARIABLE}=<key id>:<base64 of {KEY_BYTES} random bytes>; `{OFF}` is for data that is pseudonymous already"
)


class Pseudonyms:
    """Makes pseudonyms with one key, and remembers the latest so that a busy account costs a look-up and no hash.

    Without a key (`Pseudonyms.off()`) parties keep their ids and nothing else is kept. Safe to share between threads:
    what two of them compute at once is the same. Neither `repr` nor a pickle holds the key.
    """

    def __init__(self, key_id: str, key: bytes, *, room: int = 400_000) -> None:
        """`room` bounds the pseudonyms remembered per domain (about 250 bytes each)."""
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
        """For data that is pseudonymous already."""
        made = cls("off", bytes(KEY_BYTES))
        made.key_id, made._key = "", b""
        return made

    @classmethod
    def from_setting(cls, text: str) -> Self:
        """From `<key id>:<base64>` or `off`. Raises `SettingsError`, which does not repeat the text."""
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
        """Whether there is a key; without one, nothing can be replaced or sealed."""
        return bool(self._key)

    @property
    def fingerprint(self) -> str:
        """Tells keys apart, whatever their ids; empty without a key."""
        return self.derive("fingerprint")[:8].hex() if self.keyed else ""

    def of(self, value: str, domain: str) -> str:
        """The pseudonym of one value. Without a key a party stays as it is, and there is none for anything else."""
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
        """A text column with every value replaced; nulls stay null. Without a key: parties as they are, all else null."""
        if not self.keyed:
            return values if domain == PARTY else pa.nulls(len(values), pa.string())
        encoded = values.dictionary_encode()
        texts = pa.array(
            self._many(encoded.dictionary.to_numpy(zero_copy_only=False).tolist(), domain), pa.string()
        )
        return pa.DictionaryArray.from_arrays(encoded.indices, texts).dictionary_decode()

    def derive(self, purpose: str) -> bytes:
        """32 bytes for another use of the same key (HKDF-SHA256, RFC 5869), from which neither the key nor pseudonyms follow."""
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
    """What the settings say. Raises `SettingsError` if they say nothing: nobody drops the protection by accident."""
    if settings.pseudonym_key is None:
        raise SettingsError("there is no key for pseudonyms", where=VARIABLE, todo=_TODO)
    return Pseudonyms.from_setting(settings.pseudonym_key.get_secret_value())


def pseudonym(value: str, domain: str = PARTY) -> str:
    """The pseudonym of an account, merchant, e-mail address or phone number, with the key of the environment or `.env`."""
    return of_settings(RepoSettings()).of(value, domain)


def apply(policy: Mapping[str, str], rows: pa.RecordBatch, pseudonyms: Pseudonyms) -> pa.RecordBatch:
    """Rows under a policy: dropped columns are gone, replaced ones are in their place, in the order they had."""
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
    """Hold the key against the one a home was written with, or note it there: two keys in one home never meet in a join.

    `written`: whether the home has rows without a note, from before there were pseudonyms. Raises `SettingsError`.
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
    """Raise `SettingsError` if a home's note (None: it has none) is of another key."""
    if theirs is None or theirs["fingerprint"] == pseudonyms.fingerprint:
        return
    raise SettingsError(
        f"the data of this home was written with the key {theirs['key_id']!r}, this is another "
        f"({pseudonyms.key_id or OFF!r}): the same account would have two names",
        where=home,
        todo=f"set {VARIABLE} to that key (`{OFF}` if it was off), or take another home (MILLSTREAM_HOME)",
    )


def read_key_note(home: Path) -> dict[str, Any] | None:
    """The note of a home, None if there is none."""
    try:
        found: dict[str, Any] = json.loads((home / KEY_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found


def _base32(digests: list[bytes]) -> list[str]:
    """26 lower-case letters for each 16 bytes, as `base64.b32encode` gives them; many at once in numpy, which is quicker."""
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
