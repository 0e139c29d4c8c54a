"""`microtfm serve`: translations over HTTP, in the shape of LibreTranslate's interface.

POST /translate {q, source, target, format, alternatives} → {translatedText, alternatives, detectedLanguage, notices},
POST /detect {q} → [{language, confidence}], GET /languages, /frontend/settings and /health, and a page at / to
translate and look at attention. A form or an address asks as JSON does, and pages of any origin may, as with
LibreTranslate. Starlette and uvicorn serve: small, maintained, and without dependencies of their own that this project
would not want. One thread translates what waits, of all clients together; a translation does not depend on what is
translated beside it.
"""
from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from microtfm.answering import endpoint
from microtfm.attention_map import attention_svg
from microtfm.decode import Ids
from microtfm.errors import UserError
from microtfm.languages import NAMES, UNKNOWN, of_run, shares
from microtfm.markup import Markup
from microtfm.tokens import speakable
from microtfm.translator import Translator
from microtfm.waiting import Busy, Line

POLICY = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
          "img-src data:; font-src data:")
ALTERNATIVES = 10                        # of a translation, at most
TYPING = 500                             # milliseconds a page waits for the next letter before it asks
NO_LANGUAGE = ("", "auto")               # of a source that need not be said
UNSAID = (None, "")                      # what counts as a field that is not there
REST = 1000                              # bytes of a request beside its text: the other fields, and how they are framed
LETTER = 12                              # bytes of the longest letter: a surrogate pair in JSON, or %F0%9F%98%80
GRACE = 1.0                              # seconds to take an answer that comes when its time is over


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    body: int = 200_000                  # bytes
    lines: int = 500                     # or pieces of HTML
    seconds: float = 60.0                # from the head of the request to the answer
    waiting: int = 2_000_000             # source tokens of all clients that may wait


class Service:
    """The endpoints of one translator."""

    def __init__(self, translator: Translator, source: str, target: str, limits: Limits) -> None:
        self.translator, self.source, self.target, self.limits = translator, source, target, limits
        self.line = Line(translator, limits.waiting)

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [Route("/", self.page), Route("/health", self.health), Route("/languages", self.languages),
                  Route("/frontend/settings", self.settings),
                  *(Route(path, endpoint(answer, self.limits.body, self.limits.seconds), methods=["POST"])
                    for path, answer in (("/translate", self.translate), ("/detect", self.detect),
                                         ("/attention", self.attention)))]
        anybody = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "POST"], allow_headers=["*"])
        return Starlette(routes=routes, middleware=[anybody],
                         exception_handlers={HTTPException: _refused, 500: _broken})

    async def page(self, request: Request) -> Response:
        """A page to translate with."""
        text = resources.files("microtfm").joinpath("page.html").read_text(encoding="utf-8")
        return HTMLResponse(text, headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"})

    async def health(self, request: Request) -> Response:
        """Whether translations can be had."""
        return JSONResponse({"status": "ok"})

    async def languages(self, request: Request) -> Response:
        """What is translated into what."""
        return JSONResponse([{**_language(self.source), "targets": [self.target]},
                             {**_language(self.target), "targets": []}])

    async def settings(self, request: Request) -> Response:
        """What a client may offer its user: as many characters as fit into a request, whichever they are."""
        return JSONResponse({"charLimit": max(0, self.limits.body - REST) // LETTER, "frontendTimeout": TYPING,
                             "apiKeys": False, "keyRequired": False, "suggestions": False, "filesTranslation": False,
                             "supportedFilesFormat": [],
                             "language": {"source": _language(self.source), "target": _language(self.target)}})

    async def translate(self, asked: dict[str, Any]) -> Response:
        """Translate a text, line by line, or a document in HTML, or a list of them."""
        self._check_pair(asked)
        form, more = _form(asked.get("format")), _count(asked.get("alternatives"))
        texts = self._texts(asked)
        documents: list[Lines | Markup] = await asyncio.to_thread(lambda: [form(text) for text in texts])
        lines = [line for document in documents for line in document.texts]
        if len(lines) > self.limits.lines:
            raise HTTPException(413, f"There are {len(lines):,} {form.counted} in q; a request may have "
                                     f"{self.limits.lines:,}.")
        cut = await asyncio.to_thread(self.translator.cut, lines)
        found = iter(await self._translations(cut, 1 + more))
        answers = [_filled(document, list(islice(found, len(document.texts))), 1 + more) for document in documents]
        alone = isinstance(asked.get("q"), str)
        answer: dict[str, Any] = {"translatedText": answers[0][0] if alone else [each[0] for each in answers]}
        if more:
            answer["alternatives"] = answers[0][1:] if alone else [each[1:] for each in answers]
        if asked.get("source") == "auto":
            spoken = await asyncio.to_thread(lambda: [_spoken([text])[0] for text in texts])
            answer["detectedLanguage"] = spoken[0] if alone else spoken
        notices = await asyncio.to_thread(self.translator.noticed(lines, cut, form.counted).texts)
        if notices:
            answer["notices"] = notices
        return JSONResponse(answer)

    async def detect(self, asked: dict[str, Any]) -> Response:
        """Which language a text is in, as far as its letters and small words tell; the likeliest first."""
        return JSONResponse(await asyncio.to_thread(_spoken, self._texts(asked)))

    async def attention(self, asked: dict[str, Any]) -> Response:
        """A picture of where the model looked while it translated one line."""
        self._check_pair(asked)
        texts = self._texts(asked)
        line = texts[0].strip()
        if len(texts) != 1 or not line or "\n" in line:
            raise HTTPException(400, "q must be one line of text, whose attention is drawn.")
        try:
            piece = await asyncio.to_thread(self.translator.sentence, line)
        except UserError as error:
            raise HTTPException(400, str(error)) from None
        (weights, source, target), text = await self._promised(lambda: self.line.call(lambda: (
            self.translator.attention(line), self.translator.translate([line])[0]), piece))
        svg = await asyncio.to_thread(attention_svg, weights, source, target, title=f"{line} → {text}")
        return JSONResponse({"svg": svg})

    async def _translations(self, cut: list[list[Ids]], width: int) -> list[list[str]]:
        """At most `width` translations of each line that was cut so, the best first."""
        pieces = [piece for parts in cut for piece in parts]
        found = iter(await self._promised(lambda: self.line.add(pieces, width)))
        return [self.translator.together(list(islice(found, len(parts))), width) for parts in cut]

    async def _promised(self, promise: Callable[[], Future[Any]]) -> Any:
        try:
            return await asyncio.wrap_future(promise())
        except Busy:
            raise HTTPException(503, "Too much text is waiting to be translated. Try again soon.",
                                {"Retry-After": "5"}) from None

    def _texts(self, asked: dict[str, Any]) -> list[str]:
        q = asked.get("q")
        texts = [q] if isinstance(q, str) else q
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise HTTPException(400, "q is missing: the text to translate, or a list of texts.")
        return list(map(speakable, texts))

    def _check_pair(self, asked: dict[str, Any]) -> None:
        source, target = asked.get("source") or "auto", asked.get("target") or self.target
        own = self.source == UNKNOWN or source in (self.source, *NO_LANGUAGE)
        if not own or self.target not in (target, UNKNOWN):
            raise HTTPException(400, f"{source} to {target} is not served; {self.source} to {self.target} is.")


def serve(folder: Path, host: str, port: int, source: str | None, target: str | None, limits: Limits,
          say: Callable[[str], None]) -> int:
    """Serve until a signal comes; then what was asked is still answered, in its time. Returns the exit code."""
    codes = of_run(folder, source, target)
    translator = Translator.load(folder)
    translator.translate(["."])          # so that the first who asks doesn't wait for kernels
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(f"Cannot listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}. Choose "
                        f"another --port or --host.") from None
    service = Service(translator, *codes, limits)
    server = Server(uvicorn.Config(service.app(), log_level="warning", access_log=False, lifespan="off",
                                   server_header=False), limits.seconds)
    shown, number = listening.getsockname()[:2]

    def stop(*_: Any) -> None:           # a signal before uvicorn listens to them; it raises each again at its end
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    say(f"serve   {folder}: {codes[0]} to {codes[1]} on http://{f'[{shown}]' if ':' in shown else shown}:{number}  "
        f"(Ctrl-C stops)")
    try:
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        service.line.close()
        listening.close()
    return 0


class Server(uvicorn.Server):
    """A server that ends: at most as long after a signal as an answer may take."""

    def __init__(self, config: uvicorn.Config, seconds: float) -> None:
        super().__init__(config)
        self._seconds = seconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what was asked, and cut off who doesn't take its answer."""
        asyncio.get_running_loop().call_later(self._seconds + GRACE, self._cut_off)
        await super().shutdown(sockets)

    def _cut_off(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class Lines:
    """A text whose lines are translated each for itself: what `Markup` is for HTML."""

    counted = "lines"                    # what `texts` are

    def __init__(self, source: str) -> None:
        self.texts = source.split("\n")

    def filled(self, translations: Sequence[str]) -> str:
        """The text with its lines translated."""
        return "\n".join(translations)


def _language(code: str) -> dict[str, str]:
    return {"code": code, "name": NAMES.get(code, code)}


def _form(name: Any) -> type[Lines] | type[Markup]:
    if name in UNSAID or name == "text":
        return Lines
    if name == "html":
        return Markup
    raise HTTPException(400, f"format {name!r} is not served; text and html are.")


def _filled(document: Lines | Markup, found: list[list[str]], most: int) -> list[str]:
    """The document with the best translations, with the second best, and so on: as many as one of its lines has."""
    width = min(most, max(map(len, found), default=1))
    return [document.filled([one[min(k, len(one) - 1)] for one in found]) for k in range(width)]


def _spoken(texts: list[str]) -> list[dict[str, Any]]:
    return [{"language": code, "confidence": round(100 * share, 1)} for code, share in shares(texts)]


def _count(value: Any) -> int:
    value = 0 if value in UNSAID else value
    number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 4 else value
    if type(number) is not int or not 0 <= number <= ALTERNATIVES:
        raise HTTPException(400, f"alternatives must be a number from 0 to {ALTERNATIVES}.")
    return number


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "The server failed at this; its own output says where."}, 500)


