"""`python -m serving`: the scorer, with a short way from socket to score (`serving.http.score_protocol`).

`uvicorn serving.app:app` gives the same answers through the layers of ASGI, without TLS settings and without the admin
port.
"""

from __future__ import annotations

import argparse
import gc


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m serving", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--log-level", default="warning")
    asked = parser.parse_args()
    gc.disable()  # imports make no garbage, and looking for it takes a tenth of the start; `Parts.start` enables it again
    from serving.server import serve

    serve(asked.host, asked.port, asked.log_level)


if __name__ == "__main__":
    main()
