"""`python -m serving`: the scorer, with the shortest way from socket to score (`serving.wire`).

`uvicorn serving.app:app` serves the same answers through the ordinary layers.
"""

from __future__ import annotations

import argparse

import uvicorn

from serving.app import app
from serving.wire import protocol


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--log-level", default="warning")
    asked = parser.parse_args()
    uvicorn.run(
        app, host=asked.host, port=asked.port, log_level=asked.log_level, http=protocol(app), ws="none"
    )


if __name__ == "__main__":
    main()
