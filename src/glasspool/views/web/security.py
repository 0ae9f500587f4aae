"""Who may ask: everything goes through this guard before anything of the program runs.

The server listens on the loopback interface only. But every program and every web page in a browser of this
machine can reach that, so each request must bring the token, name this server in its Host header (a foreign
name that was pointed to 127.0.0.1 is refused), and must not come from a page of another origin.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""What this machine calls itself when it talks to itself."""

_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),  # the URL of the page has the token
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


def new_token() -> str:
    """Return a token that nobody can guess."""
    return secrets.token_urlsafe(24)


def page_policy(nonce: str) -> str:
    """Return the content security policy of a page: its own script and style, and this server."""
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


class Guard:
    """Lets requests through to an ASGI application, or answers 403 with nothing in it.

    Args:
        app: The application.
        token: What every request has to bring.
        port: The port that a Host header must name.
    """

    def __init__(self, app: App, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode("utf-8", "surrogateescape")
        # Browsers leave the port out of the header where it is that of the protocol.
        ports = [f":{port}", ""] if port == 80 else [f":{port}"]
        self._hosts = frozenset(f"{host}{end}".encode() for host in HOSTS for end in ports)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif not self._is_welcome(scope):
            await _refuse(send)
        else:
            await self._app(scope, receive, _with_headers(send))

    def _is_welcome(self, scope: Scope) -> bool:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        host = headers.get(b"host", [])
        if len(host) != 1 or host[0].lower() not in self._hosts:
            return False
        if not self._has_token(scope, headers.get(b"authorization", [])):
            return False
        return _is_own_origin(scope, headers, host[0].lower())

    def _has_token(self, scope: Scope, authorization: list[bytes]) -> bool:
        given: bytes | None = None
        if authorization:
            scheme, _, word = authorization[0].partition(b" ")
            given = word.strip() if scheme.lower() == b"bearer" else None
        else:
            query = scope.get("query_string", b"").decode("latin-1")
            words = [value for name, value in parse_qsl(query) if name == "token"]
            if len(words) == 1:
                given = words[0].encode("utf-8", "surrogateescape")
        # Compared in constant time, so that nobody learns from it how much of a guess was right.
        return given is not None and hmac.compare_digest(given, self._token)


def _is_own_origin(scope: Scope, headers: dict[bytes, list[bytes]], host: bytes) -> bool:
    """Tell whether a request comes from this server's own page, or from no page at all."""
    origins = headers.get(b"origin", [])
    if any(origin.lower() != b"http://" + host for origin in origins):
        return False
    site = headers.get(b"sec-fetch-site", [b"none"])
    if all(word in (b"same-origin", b"none") for word in site):
        return True
    # Somebody followed a link to the page itself, from a notebook or a mail, say: the browser shows it as a
    # page of its own, of which the other one sees nothing.
    return (
        scope["method"] == "GET"
        and scope["path"] == "/"
        and headers.get(b"sec-fetch-mode") == [b"navigate"]
        and headers.get(b"sec-fetch-dest") == [b"document"]
    )


async def _refuse(send: Send) -> None:
    headers = [(b"content-length", b"0"), *_HEADERS, _POLICY]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            has_policy = any(name == _POLICY[0] for name, _ in headers)
            message["headers"] = [*headers, *_HEADERS, *(() if has_policy else (_POLICY,))]
        await send(message)

    return sending
