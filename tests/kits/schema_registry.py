"""A schema registry over HTTP, with the part of Confluent's protocol that readers use: schemas by id, and by subject
and version.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote


class Registry:
    """`register` gives ids; `answers` may replace what it answers to a path: an HTTP status, a body, or a list of
    these to take in turn.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        """Path and Authorization header of each request."""
        self.answers: dict[str, Any] = {}
        self._schemas: dict[int, dict[str, Any]] = {}
        self._subjects: dict[str, list[int]] = {}

    def register(
        self,
        subject: str,
        schema: Any,
        *,
        references: list[dict[str, Any]] | None = None,
        schema_id: int | None = None,
        **other: Any,
    ) -> int:
        """Add a version of a subject; returns the schema's id."""
        made = schema_id if schema_id is not None else len(self._schemas) + 1
        text = schema if isinstance(schema, str) else json.dumps(schema)
        self._schemas[made] = {"schema": text, **other}
        if references:
            self._schemas[made]["references"] = references
        self._subjects.setdefault(subject, []).append(made)
        return made

    def __enter__(self) -> Self:
        registry = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                registry.asked.append(f"{path} {self.headers.get('Authorization')}")
                status, body = registry._answer(path)
                self.send_response(status)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str) -> tuple[int, Any]:
        planned = self.answers.get(path)
        if isinstance(planned, list):
            planned = planned.pop(0) if planned else None
        if isinstance(planned, int):
            return planned, {"error_code": planned, "message": "planned by the test"}
        if planned is not None:
            return 200, planned
        if found := re.fullmatch(r"/schemas/ids/(\d+)", path):
            schema = self._schemas.get(int(found[1]))
            return (200, schema) if schema else (404, {"error_code": 40403, "message": "Schema not found"})
        if found := re.fullmatch(r"/subjects/([^/]+)/versions/(\d+)", path):
            subject, version = unquote(found[1]), int(found[2])
            ids = self._subjects.get(subject)
            if ids is None:
                return 404, {"error_code": 40401, "message": f"Subject '{subject}' not found."}
            if not 0 < version <= len(ids):
                return 404, {"error_code": 40402, "message": f"Version {version} not found."}
            made = ids[version - 1]
            return 200, {"subject": subject, "version": version, "id": made, **self._schemas[made]}
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}
