"""On ingestion: the policy applied before anything remembers, details that repeat nothing, dead letters that are
encrypted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from feature_repo import privacy
from feature_repo.errors import DataError, SettingsError
from feature_repo.privacy import Pseudonyms
from feature_repo.streams.customers import CUSTOMERS
from feature_repo.streams.payments import PAYMENTS
from flows import dead_letters
from flows.accept.stages import Acceptance
from flows.blocks import DEAD_LETTER, ArrowBlock, Events, RawBlock
from flows.bootstrap import require_same_key
from flows.log.dead_letters import StorableDeadLetters, decrypt, read
from flows.pipeline import build
from flows.privacy.payload_cipher import MAGIC, PayloadCipher, key_of
from flows.settings import FlowSettings
from flows.streams import STREAMS, EventStream
from tests.kits.payments import encoded, payment

SETTING = "k1:" + "QUJD" * 11
KEYED = Pseudonyms.from_setting(SETTING)
OFF = Pseudonyms.off()

CUSTOMER: dict[str, Any] = {
    "event_id": "c1",
    "event_timestamp": "2026-11-01T00:00:00Z",
    "account_id": "a1",
    "email": "ada@mail.example",
    "phone": "+4412345",
    "name": "Ada",
    "birth_date": "1815-12-10",
    "segment": "premium",
    "opened_at": "2019-01-01T00:00:00Z",
}


def settings(key: str = SETTING, **options: Any) -> FlowSettings:
    return FlowSettings(pseudonym_key=SecretStr(key), **options)


def accepted(stream: EventStream, *events: dict[str, Any] | bytes, key: str = SETTING) -> Events:
    payloads = [event if isinstance(event, bytes) else encoded(event) for event in events]
    n = len(payloads)
    return Acceptance(stream, settings(key))(
        RawBlock(f"bus:{stream.name}:0", -1, np.arange(n), np.full(n, 1_793_491_200_000_000), payloads)
    )


def letters(events: Events) -> list[dict[str, Any]]:
    return [row for batch in events.dead for row in batch.to_pylist()]


def test_accepted_rows_have_the_columns_of_the_log_with_pseudonyms(home: Path) -> None:
    events = accepted(CUSTOMERS, CUSTOMER)
    assert events.rows.schema.names == CUSTOMERS.log_schema.names
    (row,) = events.rows.to_pylist()
    assert row["account_id"] == KEYED.of("a1", "party")
    assert row["email"] == KEYED.of("ada@mail.example", "email")
    assert row["phone"] == KEYED.of("+4412345", "phone")
    assert row["segment"] == "premium"


def test_without_a_key_accounts_stay_and_addresses_are_null(home: Path) -> None:
    (row,) = accepted(CUSTOMERS, CUSTOMER, key="off").rows.to_pylist()
    assert (row["account_id"], row["email"], row["phone"]) == ("a1", None, None)
    assert "name" not in row


def test_files_are_accepted_like_events_of_the_bus(home: Path) -> None:
    rows = pa.RecordBatch.from_pylist([payment(1) | {"event_timestamp": None}])
    at = rows.schema.get_field_index("event_timestamp")
    rows = rows.set_column(
        at, "event_timestamp", pa.array([1_793_491_200_000_000], pa.timestamp("us", "UTC"))
    )
    events = Acceptance(PAYMENTS, settings())(ArrowBlock("file:x", -1, 0, rows))
    assert events.rows["account_id"].to_pylist() == [KEYED.of("a1", "party")]


def test_time_of_another_column_is_read_and_refused_like_the_events_own(home: Path) -> None:
    events = accepted(CUSTOMERS, CUSTOMER, CUSTOMER | {"opened_at": "in May"}, CUSTOMER | {"opened_at": None})
    assert [t and t.year for t in events.rows["opened_at"].to_pylist()] == [2019, None]
    (letter,) = letters(events)
    assert (letter["reason"], letter["source_offset"]) == ("schema", 1)
    assert letter["detail"] == "opened_at: a text of 6 characters is no RFC 3339 time with a zone"


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"name": 7}, "(value (personal))"),
        ({"account_id": {"name": "Ada"}}, "(value (personal))"),
        ({"account_id": "a" * 129}, "account_id: (personal) does not have 1 to 128 characters"),
        ({"segment": "Ada Lovelace"}, "segment: a text of 12 characters is not one of"),
        ({"segment": 44123456789}, "(value a int)"),
        ({"home_latitude": "Ada"}, "(value a text of 3 characters)"),
        ({"home_latitude": 91.5}, "home_latitude: 91.5 is not between"),
    ],
)
def test_detail_describes_a_value_and_shows_only_numbers_of_numeric_columns(
    home: Path, changes: dict[str, Any], detail: str
) -> None:
    (letter,) = letters(accepted(CUSTOMERS, CUSTOMER | changes))
    assert detail in letter["detail"]
    assert "Ada" not in letter["detail"]


def test_malformed_bytes_are_not_quoted(home: Path) -> None:
    for payload in (b"Ada Lovelace", b'{"name": "Ada', b"\xff\xfeAda", b'["Ada"]'):
        (letter,) = letters(accepted(CUSTOMERS, payload))
        assert not {"Ada", "0xff"} & set(letter["detail"].replace("'", " ").split())


def test_without_a_key_values_are_shown_but_those_of_columns_that_stay_personal(home: Path) -> None:
    (letter,) = letters(accepted(PAYMENTS, payment(1, type="GIFT"), key="off"))
    assert "type: 'GIFT' is not one of" in letter["detail"]
    (letter,) = letters(accepted(CUSTOMERS, CUSTOMER | {"email": 5}, key="off"))
    assert "(value (personal))" in letter["detail"]


def test_letter_is_sealed_the_same_way_every_time_and_opens_with_the_key_only() -> None:
    cipher = PayloadCipher("payments", KEYED)
    encrypted = cipher.encrypt(b"who", "bus:payments:0", 5)
    assert encrypted == PayloadCipher("payments", Pseudonyms.from_setting(SETTING)).encrypt(
        b"who", "bus:payments:0", 5
    )
    assert encrypted.startswith(MAGIC)
    assert b"who" not in encrypted
    assert key_of(encrypted) == "k1"
    assert cipher.decrypt(encrypted, "bus:payments:0", 5) == b"who"
    assert cipher.decrypt(b"never encrypted", "bus:payments:0", 5) == b"never encrypted"
    others = {
        cipher.encrypt(b"who", "bus:payments:0", 6),
        cipher.encrypt(b"who", "bus:payments:1", 5),
        cipher.encrypt(b"whom", "bus:payments:0", 5),
        PayloadCipher("labels", KEYED).encrypt(b"who", "bus:payments:0", 5),
    }
    nonce_at = len(MAGIC) + 1 + 2
    assert len({text[nonce_at : nonce_at + 12] for text in {encrypted, *others}}) == 5


def test_letter_that_was_moved_altered_or_sealed_by_others_does_not_open() -> None:
    cipher = PayloadCipher("payments", KEYED)
    encrypted = cipher.encrypt(b"who", "bus:payments:0", 5)
    wrong = Pseudonyms("k1", bytes(32))
    with pytest.raises(DataError, match="altered"):
        cipher.decrypt(encrypted, "bus:payments:0", 6)
    with pytest.raises(DataError, match="altered"):
        PayloadCipher("labels", KEYED).decrypt(encrypted, "bus:payments:0", 5)
    with pytest.raises(DataError, match="altered"):
        cipher.decrypt(encrypted[:-1] + bytes([encrypted[-1] ^ 1]), "bus:payments:0", 5)
    with pytest.raises(DataError, match="altered"):
        PayloadCipher("payments", wrong).decrypt(encrypted, "bus:payments:0", 5)
    with pytest.raises(DataError, match="key 'k1'"):
        PayloadCipher("payments", Pseudonyms("k2", bytes(32))).decrypt(encrypted, "bus:payments:0", 5)


def test_without_a_key_letters_are_plain_and_those_of_customers_have_no_payload(home: Path) -> None:
    (batch,) = StorableDeadLetters(PAYMENTS, OFF)(accepted(PAYMENTS, b"{", key="off"))
    assert batch["payload"].to_pylist() == [b"{"]
    (batch,) = StorableDeadLetters(CUSTOMERS, OFF)(accepted(CUSTOMERS, b"{", key="off"))
    assert batch["payload"].to_pylist() == [None]


def test_command_counts_reasons_without_a_key_and_shows_payloads_with_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = accepted(PAYMENTS, b'{"name": "Ada"', payment(1, amount=-1.0))
    batches = StorableDeadLetters(PAYMENTS, KEYED)(events)
    folder = home / "dead_letters" / "payments"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_batches(batches, DEAD_LETTER), folder / "bus-0000000000.parquet")
    opened = decrypt(next(read(PAYMENTS, settings(home=home))), PAYMENTS, KEYED)
    assert b'{"name": "Ada"' in opened["payload"].to_pylist()

    counted = CliRunner().invoke(dead_letters.app, ["--stream", "payments"])
    assert counted.exit_code == 0
    assert "payments: 2 dead letters" in counted.stdout
    assert "amount: -1.0 is not between" in counted.stdout
    assert CliRunner().invoke(dead_letters.app, ["--show"]).exit_code == 2  # off opens nothing
    monkeypatch.setenv("MILLSTREAM_PSEUDONYM_KEY", SETTING)
    shown = CliRunner().invoke(dead_letters.app, ["--show", "--reason", "malformed"])
    assert '{"name": "Ada"' in shown.stdout
    assert "amount" not in shown.stdout


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_flow_without_a_key_refuses_to_start(
    home: Path, stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    unset = FlowSettings(pseudonym_key=None)
    with pytest.raises(SettingsError, match="make key"):
        build(stream, unset)
    with pytest.raises(SettingsError, match="make key"):
        require_same_key(unset)


def test_flow_refuses_a_home_of_another_key(home: Path) -> None:
    require_same_key(settings())
    assert json.loads((home / privacy.KEY_FILE).read_text())["key_id"] == "k1"
    with pytest.raises(SettingsError, match="two names"):
        require_same_key(settings("off"))
