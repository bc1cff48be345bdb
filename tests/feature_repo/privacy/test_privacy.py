"""Pseudonyms: the hash of its definition, stable, linked across streams, and a key that shows nowhere."""

from __future__ import annotations

import base64
import hmac
import pickle
import re
import stat
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import SecretStr

from feature_repo import privacy
from feature_repo.errors import SettingsError
from feature_repo.privacy import DROP, PARTY, PSEUDONYM, Pseudonyms
from feature_repo.privacy.__main__ import write_key
from feature_repo.settings import PROJECT_ROOT, RepoSettings
from feature_repo.streams import STREAMS, EventStream

KEY = bytes(range(7, 39))
SETTING = f"k1:{base64.b64encode(KEY).decode()}"


def expected(value: str, domain: str) -> str:
    digest = hmac.digest(KEY, f"{domain}\0{value}".encode(), "sha256")[:16]
    return "k1_" + base64.b32encode(digest).decode().lower().rstrip("=")


@pytest.mark.parametrize("count", [1, 15, 16, 17, 1000])
def test_pseudonym_is_hmac_of_domain_and_value_however_many_are_made_at_once(count: int) -> None:
    values = [f"Zoë {n} 🔑" for n in range(count)]
    made = Pseudonyms("k1", KEY).column(pa.array([*values, None, values[0]]), PARTY)
    assert made.type == pa.string()
    want = [expected(value, "party") for value in values]
    assert made.to_pylist() == [*want, None, want[0]]
    assert all(re.fullmatch(r"k1_[a-z2-7]{26}", text) for text in want)


def test_long_key_is_hashed_first_as_hmac_says() -> None:
    key = bytes(range(100))
    digest = hmac.digest(key, b"email\0a@b.example", "sha256")[:16]
    made = Pseudonyms("k1", key).of("a@b.example", "email")
    assert made == "k1_" + base64.b32encode(digest).decode().lower().rstrip("=")


def test_pseudonym_is_the_same_when_the_memory_has_turned_over() -> None:
    small = Pseudonyms("k1", KEY, room=8)
    for start in (0, 3, 50, 0, 4, 50):
        values = [f"a{n}" for n in range(start, start + 6)]
        assert small.column(pa.array(values), PARTY).to_pylist() == [expected(v, "party") for v in values]
    assert sum(len(names) for names in (*small._young.values(), *small._old.values())) <= 16


def test_account_and_payee_share_a_domain_and_other_columns_do_not() -> None:
    made = Pseudonyms("k1", KEY)
    assert privacy.domain_of("account_id", PARTY) == privacy.domain_of("merchant_id", PARTY) == PARTY
    assert len({made.of("x", domain) for domain in (PARTY, "email", "phone")}) == 3


def test_text_that_looks_like_a_pseudonym_is_hashed_too() -> None:
    made = Pseudonyms("k1", KEY)
    assert made.of(made.of("A1", PARTY), PARTY) != made.of("A1", PARTY)


def test_other_keys_give_other_pseudonyms_and_name_themselves() -> None:
    assert Pseudonyms("k2", KEY).of("A1", PARTY) == expected("A1", "party").replace("k1_", "k2_")
    assert Pseudonyms("k1", bytes(32)).of("A1", PARTY) != expected("A1", "party")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("", "cannot be read"),
        ("k1", "cannot be read"),
        ("k1:!!!!", "cannot be read"),
        ("k1:" + base64.b64encode(bytes(31)).decode(), "31 bytes"),
        ("K1:" + base64.b64encode(KEY).decode(), "key id"),
        ("toolongkey:" + base64.b64encode(KEY).decode(), "key id"),
    ],
)
def test_setting_that_is_no_key_is_refused_without_repeating_it(setting: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        Pseudonyms.from_setting(setting)
    assert len(setting) < 8 or setting.partition(":")[2] not in str(refused.value)
    assert "make key" in str(refused.value)


def test_setting_takes_both_alphabets_of_base64() -> None:
    key = b"\xfb\xff" * 16
    plain = Pseudonyms.from_setting(f"k1:{base64.b64encode(key).decode()}")
    url = Pseudonyms.from_setting(f" k1:{base64.urlsafe_b64encode(key).decode()}\n")
    assert plain.of("x", PARTY) == url.of("x", PARTY)


def test_no_setting_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RepoSettings(pseudonym_key=None)
    with pytest.raises(SettingsError, match="make key"):
        privacy.of_settings(settings)


def test_key_is_in_no_repr_text_error_or_pickle() -> None:
    made = Pseudonyms.from_setting(SETTING)
    settings = RepoSettings(pseudonym_key=SecretStr(SETTING))
    shown = f"{made!r} {made} {settings!r} {settings} {settings.model_dump_json()}"
    assert repr(made) == "Pseudonyms('k1')"
    assert SETTING[3:] not in shown
    with pytest.raises(TypeError):
        pickle.dumps(made)
    with pytest.raises(ValueError, match="frozen") as refused:
        settings.pseudonym_key = SecretStr(SETTING)  # type: ignore[misc]
    assert SETTING[3:] not in str(refused.value)


def test_derived_keys_differ_by_purpose_and_are_not_the_key() -> None:
    made = Pseudonyms("k1", KEY)
    derived = {made.derive("a"), made.derive("b"), KEY}
    assert len(derived) == 3
    assert {len(key) for key in derived} == {32}
    assert made.derive("a") == Pseudonyms("k9", KEY).derive("a")


def test_policy_drops_replaces_and_leaves_the_rest_in_order() -> None:
    rows = pa.RecordBatch.from_pydict(
        {"event_id": ["e"], "account_id": ["A1"], "email": ["x@y.example"], "name": ["N"], "amount": [1.5]}
    )
    policy = {"account_id": PARTY, "email": PSEUDONYM, "name": DROP}
    kept = privacy.apply(policy, rows, Pseudonyms("k1", KEY))
    assert kept.to_pylist() == [
        {
            "event_id": "e",
            "account_id": expected("A1", "party"),
            "email": expected("x@y.example", "email"),
            "amount": 1.5,
        }
    ]


def test_without_a_key_parties_stay_and_nothing_else_personal_is_kept() -> None:
    off = Pseudonyms.from_setting("off")
    assert not off.keyed
    rows = pa.RecordBatch.from_pydict({"account_id": ["A1"], "email": ["x@y.example"], "name": ["N"]})
    kept = privacy.apply({"account_id": PARTY, "email": PSEUDONYM, "name": DROP}, rows, off)
    assert kept.to_pylist() == [{"account_id": "A1", "email": None}]
    assert off.of("A1", PARTY) == "A1"
    for wanted in (lambda: off.of("x@y.example", "email"), lambda: off.derive("sealing")):
        with pytest.raises(SettingsError):
            wanted()


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_no_log_has_a_column_that_is_dropped(stream: EventStream) -> None:
    policy = stream.personal
    assert set(policy) <= set(stream.schema.names)
    assert not {column for column, treatment in policy.items() if treatment == DROP} & set(
        stream.log_schema.names
    )
    assert set(policy.values()) <= {DROP, PSEUDONYM, PARTY}


def test_home_keeps_to_the_key_it_was_written_with(tmp_path: Path) -> None:
    ours, other, off = Pseudonyms("k1", KEY), Pseudonyms("k1", bytes(32)), Pseudonyms.off()
    privacy.check_key(tmp_path, ours, written=False)
    privacy.check_key(tmp_path, ours, written=True)
    privacy.check_key(tmp_path, Pseudonyms("k1", KEY), written=True)
    for wrong in (other, off):
        with pytest.raises(SettingsError, match="two names"):
            privacy.check_key(tmp_path, wrong, written=True)
    noted = (tmp_path / privacy.KEY_FILE).read_bytes()
    assert KEY.hex().encode() not in noted
    assert base64.b64encode(KEY) not in noted
    assert [path.name for path in tmp_path.iterdir()] == [privacy.KEY_FILE]


def test_home_from_before_pseudonyms_goes_on_without_a_key_only(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'off'"):
        privacy.check_key(tmp_path, Pseudonyms("k1", KEY), written=True)
    privacy.check_key(tmp_path, Pseudonyms.off(), written=True)
    with pytest.raises(SettingsError, match="'off'"):
        privacy.check_key(tmp_path, Pseudonyms("k1", KEY), written=True)


def test_written_key_is_random_for_its_owner_alone_and_spares_other_lines(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("REDIS_URL=redis://db.local/1")
    file.chmod(0o644)
    value = write_key(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().splitlines() == [
        "REDIS_URL=redis://db.local/1",
        f"MILLSTREAM_PSEUDONYM_KEY={value}",
    ]
    read = RepoSettings(_env_file=file)  # type: ignore[call-arg]
    assert read.redis_url == "redis://db.local/1"
    assert Pseudonyms.from_setting(value).keyed
    assert write_key(tmp_path / "other") != value


def test_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    write_key(file)
    monkeypatch.setenv("MILLSTREAM_PSEUDONYM_KEY", SETTING)
    settings = RepoSettings(_env_file=file)  # type: ignore[call-arg]
    assert privacy.of_settings(settings).key_id == "k1"


def test_command_line_tells_the_pseudonyms_a_feast_user_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_PSEUDONYM_KEY", SETTING)
    run = [sys.executable, "-m", "feature_repo.privacy"]
    told = subprocess.run(
        [*run, "party", "A1", "M7"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [expected("A1", "party"), expected("M7", "party")]
    piped = subprocess.run(
        [*run, "email", "-"],
        cwd=PROJECT_ROOT,
        input="a@b.example\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert piped.stdout.split() == [expected("a@b.example", "email")]
    assert privacy.pseudonym("A1") == expected("A1", "party")
