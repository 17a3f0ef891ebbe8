"""A rerank endpoint behind a key that may first answer with an error which repeats the request.

``python -m tests.dags.guarded_server STATUS TIMES [FAULTS]``: the key is in ``GUARD_KEY``; the
first ``TIMES`` calls get ``STATUS`` and a message of the request's own headers and texts.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import orjson
import uvicorn

from rerank_jobs.endpoint.app import API_PREFIX, create_app
from rerank_jobs.endpoint.faults import load_faults
from rerank_jobs.endpoint.instant import InstantScorer


def repeat_first(app: Any, status: int, times: int) -> Any:
    """Return an app that answers the first calls for scores with an error that quotes them."""
    left = iter(range(times))

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if not scope.get("path", "").endswith("/rerank") or next(left, None) is None:
            await app(scope, receive, send)
            return
        body = (await receive())["body"].decode()
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        error = {"code": status, "message": f"refused: {body}", "metadata": {"headers": headers}}
        start = {"type": "http.response.start", "status": status, "headers": []}
        await send(start)
        await send({"type": "http.response.body", "body": orjson.dumps({"error": error})})

    return answer


def main(status: str, times: str, faults: str = "") -> None:
    """Serve on a free port of loopback until a signal comes."""
    app = create_app(
        scorer=InstantScorer(),
        api_key=os.environ["GUARD_KEY"],
        faults=load_faults(Path(faults)) if faults else None,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        sys.stdout.write(f"listening on http://127.0.0.1:{port}{API_PREFIX}\n")
        sys.stdout.flush()
        guarded = repeat_first(app, int(status), int(times))
        uvicorn.Server(uvicorn.Config(guarded, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
