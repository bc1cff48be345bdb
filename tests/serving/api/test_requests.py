"""Invalid input is refused with field and reason, in FastAPI's shape; nothing that a client sends is a server error."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from feature_repo.streams.payments import PAYMENTS, TYPES
from serving.admission import api_keys
from serving.api.requests import EXAMPLE, SMALLEST, Payment
from tests.kits.scorer_process import running_scorer
from tests.kits.served_model import own_home, world

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with world().scorer(home=own_home(tmp_path_factory.mktemp("home")), max_body_bytes=5000) as client:
        yield client


def details(client: TestClient, body: Any, path: str = "/score") -> list[dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post(path, content=content)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/json"
    found: list[dict[str, Any]] = response.json()["detail"]
    assert all({"type", "loc", "msg"} <= d.keys() <= {"type", "loc", "msg", "ctx"} for d in found)
    return found


def test_the_request_has_the_columns_of_the_canonical_payment() -> None:
    assert sorted(Payment.model_fields) == sorted(PAYMENTS.schema.names)
    schema = Payment.model_json_schema()["properties"]
    assert tuple(schema["type"]["enum"]) == TYPES
    assert all("description" in field for field in schema.values())


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"amount": "12.5"}, "float_type", "valid number"),
        ({"amount": -0.01}, "greater_than_equal", "greater than or equal to 0"),
        ({"amount": True}, "float_type", "valid number"),
        ({"amount": None}, "float_type", "valid number"),
        ({"amount": float("nan")}, "finite_number", "finite number"),
        ({"amount": float("inf")}, "finite_number", "finite number"),
        ({"latitude": float("-inf")}, "finite_number", "finite number"),
        ({"latitude": 90.1}, "less_than_equal", "less than or equal to 90"),
        ({"longitude": -181}, "greater_than_equal", "greater than or equal to -180"),
        ({"type": "REFUND"}, "literal_error", "'PAYMENT', 'TRANSFER'"),
        ({"currency": "eur"}, "string_pattern_mismatch", "pattern"),
        ({"currency": "EUR\n"}, "string_pattern_mismatch", "pattern"),
        ({"account_id": ""}, "string_too_short", "at least 1 character"),
        ({"merchant_id": "m" * 129}, "string_too_long", "at most 128 characters"),
        ({"account_id": 7}, "string_type", "valid string"),
        ({"event_timestamp": "2026-11-22T04:19:55"}, "timezone_aware", "timezone"),
        ({"event_timestamp": 1_795_321_195}, "datetime_type", "valid datetime"),
        ({"event_timestamp": "yesterday"}, "datetime_parsing", "valid datetime"),
        ({"event_timestamp": "1969-12-31T23:59:59Z"}, "datetime_range", "between 1970 and 2262"),
        ({"colour": "red"}, "extra_forbidden", "not permitted"),
        ({"account_balance_before": 10**400}, "finite_number", "finite number"),
    ],
)
def test_a_wrong_field_is_named_with_the_reason(
    client: TestClient, changes: dict[str, Any], kind: str, said: str
) -> None:
    (detail,) = details(client, {**SMALLEST, **changes})
    assert detail["loc"] == ["body", next(iter(changes))]
    assert detail["type"] == kind
    assert said in detail["msg"]


def test_every_missing_field_is_named_and_a_batch_says_which_payment(client: TestClient) -> None:
    assert [d["loc"] for d in details(client, {})] == [["body", field] for field in SMALLEST]
    (detail,) = details(client, {"payments": [SMALLEST, {**SMALLEST, "amount": -1}]}, "/score/batch")
    assert detail["loc"] == ["body", "payments", 1, "amount"]
    assert details(client, {"payments": []}, "/score/batch")[0]["type"] == "too_short"
    assert details(client, {"payments": [{}] * 1001}, "/score/batch")[0]["loc"][:2] == ["body", "payments"]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        (b'{"amount": ', ["body", 11]),
        (b"{]", ["body", 1]),
        (b"\xff\xfe", ["body"]),
        (b'"\\ud800"', ["body"]),
        (b"[" * 2000, ["body"]),
    ],
)
def test_malformed_json_is_refused_in_the_standard_shape(
    client: TestClient, body: bytes, loc: list[Any]
) -> None:
    (detail,) = details(client, body)
    assert (detail["type"], detail["msg"]) == ("json_invalid", "JSON decode error")
    assert detail["loc"][: len(loc)] == loc
    assert detail["ctx"]["error"]


def test_empty_bodies_other_json_types_and_large_bodies_are_refused(client: TestClient) -> None:
    assert details(client, b"")[0] == {
        "type": "missing",
        "loc": ["body"],
        "msg": "Field required",
    }
    assert details(client, b"[]")[0]["loc"] == ["body"]
    large = client.post("/score", content=b" " * 5001)
    assert (large.status_code, large.json()["detail"][:38]) == (413, "the body is larger than 5000 bytes; se")
    assert client.get("/score").status_code == 405
    assert client.get("/nowhere").status_code == 404


def test_hostile_but_valid_payments_are_scored(client: TestClient) -> None:
    for changes in (
        {"account_id": "\0\r\n*3\r\n$4\r\nPING\r\n"},
        {"account_id": "ключ🔑" * 10},
        {"amount": 1e12, "account_balance_before": 1e-300},
        {"amount": 5e-324},
        {"event_timestamp": "1970-01-01T00:00:00Z"},
        {"event_timestamp": "2024-11-22T05:19:55+14:00"},
    ):
        got = client.post("/score", json={**EXAMPLE, **changes})
        assert (got.status_code, got.json()["degraded"]) == (200, False), got.text
        assert 0 <= got.json()["score"] <= 1


def test_openapi_documents_an_example_for_every_route(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    models = document["components"]["schemas"]

    def has_example(content: dict[str, Any]) -> bool:
        schema = content.get("schema", {})
        return bool(
            content.get("example")
            or models.get(schema.get("$ref", "").rsplit("/", 1)[-1], {}).get("examples")
        )

    assert set(document["paths"]) == {"/score", "/score/batch", "/model", "/healthz", "/readyz", "/metrics"}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            (kind,) = operation["responses"]["200"]["content"]
            assert has_example(operation["responses"]["200"]["content"][kind]), path
            assert operation["summary"]
            assert operation["description"]
            if method == "post":
                assert has_example(operation["requestBody"]["content"]["application/json"]), path


def test_examples_of_the_documentation_are_answered(client: TestClient) -> None:
    models = client.get("/openapi.json").json()["components"]["schemas"]
    for example in models["Payment"]["examples"]:
        assert client.post("/score", json=example).status_code == 200
    for example in models["Batch"]["examples"]:
        assert client.post("/score/batch", json=example).status_code == 200


def test_schemathesis_finds_no_server_error_and_no_undocumented_answer(tmp_path: Path) -> None:
    home = own_home(tmp_path)
    key, told = api_keys.make("all", "t", api_keys.SCOPES, rate=1e9, now=datetime.now(UTC))
    api_keys.write(home / "api_keys.json", [key])
    with running_scorer(home, world().url, MILLSTREAM_DEADLINE_MS="2000") as address:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                "run",
                f"{address}/openapi.json",
                "--seed=7",
                "--max-examples=15",
                f"--header=Authorization: Bearer {told}",
                f"--checks={CHECKS}",
                "--phases=examples,coverage,fuzzing",
                "--no-color",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
