"""The export file: one dead letter per line as JSON, for a person or a script to repair.

    {"letter": "payments/bus:payments:0/7", "reason": "check", "detail": "amount: -1.0 ...", "event": {...}, ...}

`event` is what is sent. A payload that is not a JSON object is `text` instead, or `base64` if it is not UTF-8: to
send it, write the correct event into `event`, or repair `text`. Delete the lines that are not to be sent.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.redrive.letters import name_of
from flows.streams import EventStream


@dataclass(frozen=True)
class Repaired:
    """One line of the file: name of the letter and bytes to send, or in `wrong` why the line is invalid."""

    number: int
    letter: str = ""
    payload: bytes = b""
    wrong: str = ""


def as_line(stream: EventStream, row: dict[str, Any], avro: Callable[[bytes], Any] | None = None) -> bytes:
    """Encode a decrypted letter as a line of the file; `avro` decodes payloads that are not JSON."""
    accepted = row["created_timestamp"]
    line = {
        "letter": name_of(stream, row),
        "reason": row["reason"],
        "detail": row["detail"],
        "accepted": accepted and accepted.isoformat().replace("+00:00", "Z"),
    }
    content = _content(_as_json(row["payload"], avro) if avro else row["payload"])
    return json.dumps(line | content, ensure_ascii=False).encode() + b"\n"


def _as_json(payload: bytes, avro: Callable[[bytes], Any]) -> bytes:
    """Convert an Avro record to JSON; return the payload unchanged if it is not Avro."""
    try:
        return json.dumps(avro(payload), allow_nan=False).encode()
    except Exception:  # noqa: BLE001  a broken record can raise anything
        return payload


def _content(payload: bytes) -> dict[str, Any]:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(payload).decode()}
    try:
        event = json.loads(text, parse_constant=_no_json)
        json.dumps(event, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return {"text": text}
    return {"event": event} if isinstance(event, dict) else {"text": text}


def _no_json(name: str) -> None:
    raise ValueError(name)


def lines_of(path: Path) -> Iterator[Repaired]:
    """Yield the lines of a file without empty ones."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _line(number, line)


def _line(number: int, text: bytes) -> Repaired:
    try:
        line = json.loads(text, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        return Repaired(number, wrong=f"this is no JSON: {error}")
    if not isinstance(line, dict) or not isinstance(line.get("letter"), str):
        return Repaired(number, wrong="this is no line of an export: it has no `letter`")
    letter = line["letter"]
    if line.get("event") is not None:
        try:
            payload = json.dumps(line["event"], ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            return Repaired(number, letter, wrong=f"event: {error}")
        return Repaired(number, letter, payload)
    if isinstance(line.get("text"), str):
        return Repaired(number, letter, line["text"].encode("utf-8", "surrogatepass"))
    return Repaired(number, letter, wrong="there is no `event`: write the correct event, or delete the line")
