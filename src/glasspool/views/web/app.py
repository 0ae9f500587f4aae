"""The routes of ``glasspool serve``: the page, the API, the events. Between the guard and the feed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from glasspool import extras
from glasspool.observe.history import RECORDS, plain_record
from glasspool.views.web import answers, openapi, page, plain
from glasspool.views.web.feed import Feed, Page, TooManyPages
from glasspool.views.web.security import App, Guard, page_policy

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from glasspool.metrics import Exporter

HEARTBEAT_S = 10.0
_BODY_BYTES = 10_000
_BIGGEST = 1 << 63


def make(feed: Feed, *, token: str, port: int, title: str) -> App:
    """Return the guarded application. It starts the feed as it starts, and stops it as it ends.

    Args:
        feed: What it serves.
        token: What each request must bring.
        port: The port on which it will be reached.
        title: What the page is called.

    Raises:
        MissingExtra: Starlette is not installed.
    """
    applications = extras.load("starlette.applications", "web")
    routing = extras.load("starlette.routing", "web")
    routes = _Routes(feed, token, title)
    paths: list[tuple[str, Callable[..., Any], str]] = [
        ("/", routes.page, "GET"),
        ("/api/snapshot", routes.snapshot, "GET"),
        ("/api/events", routes.events, "GET"),
        ("/api/history", routes.history, "GET"),
        ("/api/records", routes.records, "GET"),
        ("/api/slowest", routes.slowest, "GET"),
        ("/api/stack", routes.stack, "GET"),
        ("/api/sampling", routes.sampling, "POST"),
        ("/api/flame", routes.flame, "GET"),
        ("/openapi.json", routes.description, "GET"),
        ("/metrics", routes.metrics, "GET"),
        ("/healthz", routes.health, "GET"),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        feed.start()
        try:
            yield
        finally:
            await asyncio.to_thread(feed.stop)

    app = applications.Starlette(
        routes=[routing.Route(path, to, methods=[method]) for path, to, method in paths],
        lifespan=lifespan,
    )
    return Guard(app, token, port)


class _BadRequest(Exception):
    """What was asked for makes no sense: the text says why."""


class _Routes:
    """One method for each path. What may block runs in a thread of the pool of the event loop."""

    def __init__(self, feed: Feed, token: str, title: str) -> None:
        self._feed = feed
        self._token = token
        self._title = title
        self._exporter: Exporter | None = None

    # The page -------------------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """Send the page: readable by itself, taken over by its script where there is one."""
        stacks = request.query_params.get("stacks") == "1"
        view = await asyncio.to_thread(self._feed.view, stacks=stacks)
        nonce = secrets.token_urlsafe(16)
        basic = plain.document(view, self._token, stacks=stacks)
        text = page.document(basic, nonce, self._token, self._title)
        headers = {"content-security-policy": page_policy(nonce)}
        return _response(text, "text/html; charset=utf-8", headers=headers)

    # The API --------------------------------------------------------------------------------------

    async def snapshot(self, _: Request) -> Response:
        """Send the whole state."""
        view = await asyncio.to_thread(self._feed.view)
        return _json(answers.state(view, sampling=self._feed.is_sampling))

    async def events(self, _: Request) -> Response:
        """Send what happens, until the page is closed or the server ends."""
        responses = extras.load("starlette.responses", "web")
        fed = Page(asyncio.get_running_loop())
        try:
            self._feed.subscribe(fed)
        except TooManyPages:
            return _error("too many pages are open", 503)
        response: Response = responses.StreamingResponse(
            self._stream(fed), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
        )
        return response

    async def _stream(self, fed: Page) -> AsyncIterator[str]:
        try:
            yield "retry: 1000\n\n"
            while not fed.is_over:
                try:
                    # Woken by the feed; the time is that of the heartbeat, by which a line that is cut is
                    # noticed.
                    await asyncio.wait_for(fed.wake.wait(), HEARTBEAT_S)
                except TimeoutError:
                    yield ": still here\n\n"
                for event in fed.take():
                    yield event
        finally:
            self._feed.unsubscribe(fed)

    async def history(self, _: Request) -> Response:
        """Send the counters of the last minutes, by second."""
        return _json(await asyncio.to_thread(self._feed.series))

    async def records(self, request: Request) -> Response:
        """Send the last records."""
        try:
            limit = _number(request, "limit", 1000, least=0, most=RECORDS)
            since = _number(request, "since_ns", None, least=0, most=_BIGGEST)
        except _BadRequest as error:
            return _error(str(error), 400)
        found, lost = await asyncio.to_thread(self._feed.records, limit or 0, since)
        rows = await asyncio.to_thread(answers.rows, found)
        return _response(f'{{"records":{rows},"lost":{lost}}}', "application/json")

    async def slowest(self, _: Request) -> Response:
        """Send the slowest tasks of all that were seen, the slowest first."""
        found = await asyncio.to_thread(self._feed.slowest)
        return _json({"records": [plain_record(record) for record in found]})

    async def stack(self, request: Request) -> Response:
        """Send the stack of one thread, taken now."""
        try:
            pid = _number(request, "pid", None, least=1, most=1 << 31)
            tid = _number(request, "tid", pid, least=1, most=1 << 63)
        except _BadRequest as error:
            return _error(str(error), 400)
        if pid is None:
            return _error("pid is missing", 400)
        view = await asyncio.to_thread(self._feed.view, stacks=True)
        told = answers.stack(view, pid, tid, request.query_params.get("node") or None)
        if told is None:
            return _error(f"no thread {tid} of a process {pid} is being watched", 404)
        return _json(told)

    async def sampling(self, request: Request) -> Response:
        """Begin or end the sampling of stacks."""
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return _error("the content type must be application/json", 415)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _BODY_BYTES:
                return _error("the body is too long", 413)
        try:
            wanted = json.loads(body)["on"]
        except (ValueError, TypeError, KeyError, RecursionError):
            wanted = None
        if not isinstance(wanted, bool):
            return _error('the body must be {"on": true} or {"on": false}', 400)
        await asyncio.to_thread(self._feed.sample, wanted)
        return _json({"on": self._feed.is_sampling})

    async def flame(self, _: Request) -> Response:
        """Send what was sampled, folded."""
        return _json(await asyncio.to_thread(self._feed.flame))

    async def description(self, _: Request) -> Response:
        """Send the description of this API."""
        return _json(openapi.document())

    async def metrics(self, request: Request) -> Response:
        """Send metrics, in the form that the reader accepts."""
        from glasspool import metrics

        try:
            if self._exporter is None:
                self._exporter = metrics.Exporter()
            view = await asyncio.to_thread(self._feed.view)
            accept = request.headers.get("accept", "")
            body, kind = await asyncio.to_thread(self._exporter.exposition, view, accept)
        except extras.MissingExtra as error:
            return _error(str(error), 501)
        return _response(body, kind)

    async def health(self, _: Request) -> Response:
        """Say that the server lives."""
        return _json({"status": "ok", "pages": self._feed.pages})


def _number(
    request: Request, name: str, default: int | None, *, least: int, most: int
) -> int | None:
    word = request.query_params.get(name)
    if word is None:
        return default
    if not (word.isascii() and word.isdecimal() and len(word) < 20 and least <= int(word) <= most):
        raise _BadRequest(f"{name} must be a number from {least} to {most}")
    return int(word)


def _response(
    body: str | bytes, kind: str, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    responses = extras.load("starlette.responses", "web")
    raw = body.encode("utf-8", "replace") if isinstance(body, str) else body
    made: Response = responses.Response(
        raw, status_code=status, headers={**(headers or {}), "content-type": kind}
    )
    return made


def _json(value: Any) -> Response:
    return _response(answers.text(value), "application/json")


def _error(text: str, status: int) -> Response:
    return _response(answers.text({"error": text}), "application/json", status=status)
