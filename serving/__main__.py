"""`python -m serving`: the scorer, with the shortest way from socket to score (`serving.http.score_protocol`).

`uvicorn serving.app:app` serves the same answers through the ordinary layers. TLS and the admin port are there this way only.
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
    gc.disable()  # nothing that is imported is garbage, and looking for it is a tenth of the start; on again when the scorer has started
    from serving.server import serve

    serve(asked.host, asked.port, asked.log_level)


if __name__ == "__main__":
    main()
