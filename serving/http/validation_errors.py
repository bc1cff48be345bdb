"""What is wrong with a body, in the shape of FastAPI's 422 answers."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import ValidationError

MAX_ERRORS: Final = 100


def explain(error: ValidationError, body: bytes | bytearray) -> list[dict[str, Any]]:
    """Return what FastAPI would return, at most `MAX_ERRORS` entries, each with `type`, `loc`, `msg` and perhaps `ctx`.

    `loc` begins with "body"; malformed JSON is located by its first wrong byte. There is no `input`: it may be
    somebody's account.
    """
    found: list[dict[str, Any]] = [
        dict(e) for e in error.errors(include_url=False, include_input=False)[:MAX_ERRORS]
    ]
    if found[0]["type"] != "json_invalid":
        return [_writable({**e, "loc": ("body", *e["loc"])}) for e in found]
    if not body.strip():
        return [{"type": "missing", "loc": ("body",), "msg": "Field required"}]
    place: tuple[str | int, ...] = ("body",)
    why = str(found[0].get("ctx", {}).get("error", "")) or found[0]["msg"]
    try:
        json.loads(body)
    except json.JSONDecodeError as other:
        place, why = ("body", other.pos), other.msg
    except (ValueError, RecursionError):
        pass
    return [{"type": "json_invalid", "loc": place, "msg": "JSON decode error", "ctx": {"error": why}}]


def _writable(error: dict[str, Any]) -> dict[str, Any]:
    """An error whose context can be written as JSON."""
    kept: dict[str, Any] = {k: error[k] for k in ("type", "loc", "msg") if k in error}
    if "ctx" in error:
        kept["ctx"] = {k: v if isinstance(v, int | float | str) else str(v) for k, v in error["ctx"].items()}
    return kept
