"""An HTTP request from its body to its answer: read in time, answered in time, and dropped when its client is gone."""
from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from microtfm.bodies import fields

Answer = Callable[[dict[str, Any]], Coroutine[Any, Any, Response]]


def endpoint(answer: Answer, most: int, seconds: float) -> Callable[[Request], Awaitable[Response]]:
    """A handler of POST requests: what `answer` makes of their fields (see `bodies.fields`).

    most: bytes of a body. seconds: from the head of a request to its answer. Raises HTTPException: 400 for a body that
    cannot be read, 413 for one that is too long, 408 for one that does not arrive in time, 504 for an answer that is
    not there in time, 503 where the server is ended before.
    """
    async def handler(request: Request) -> Response:
        until = asyncio.get_running_loop().time() + seconds
        try:
            body = await _body(request, most, until)
            asked = _asked(request, body)
            return await _answer(request, answer(asked), until)
        except asyncio.CancelledError:
            raise HTTPException(503, "The server is stopping. Ask again when it is back.") from None

    return handler


async def _answer(request: Request, work: Coroutine[Any, Any, Response], until: float) -> Response:
    """What the work returns, which is cancelled when its time is over or its client is gone."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        left = until - asyncio.get_running_loop().time()
        await asyncio.wait((task, gone), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        task.cancel()
        gone.cancel()
    raise HTTPException(504, "It took too long: the server has much to do, or the text is long. Send less at once.")


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, most: int, until: float) -> bytes:
    too_long = HTTPException(413, f"The request has more than {most:,} bytes. Send it in parts.")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most:
        raise too_long
    parts, size = [], 0
    try:
        async with asyncio.timeout_at(until):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_long
                parts.append(part)
    except (TimeoutError, ClientDisconnect):
        raise HTTPException(408, "The request did not arrive in time.") from None
    return b"".join(parts)


def _asked(request: Request, body: bytes) -> dict[str, Any]:
    try:
        return fields(request.headers.get("content-type", ""), body, request.scope["query_string"])
    except ValueError:
        raise HTTPException(400, 'The request must hold a JSON object in UTF-8, such as {"q": "…"}, or a form in UTF-8.'
                            ) from None
