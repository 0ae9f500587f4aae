"""``glasspool serve [PID]``: pools in a browser, their metrics, and an API, from a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import errno
import ipaddress
import json
import os
import socket
import string
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from glasspool import extras
from glasspool.cli import codes, complain, parsing

if TYPE_CHECKING:
    from glasspool.observe.watch import Watch
    from glasspool.views.web.feed import Feed

PORT = 8909
"""Where it is served if nothing else is wanted, or on the next port that is free."""

_PORTS = 20
_LEAST_TOKEN = 8
# What a bearer's token may consist of: RFC 6750, section 2.1.
_GOOD_TOKEN = frozenset(string.ascii_letters + string.digits + "-._~+/=")

DESCRIPTION = """\
Watch pools in a browser: workers and threads with role, state, task and stack,
the stream of tasks, throughput, deaths, a flame graph. Without PID: all your
programs that run a pool of glasspool. With the PID of a program (or of one of
its workers): its pools, of any library. The server is a process of its own;
nothing of it runs in the program, which needs no change.

It listens on this machine only, and answers only who knows the token in the
URL that it prints. Needs: pip install 'glasspool[web]' (for /metrics, too,
'glasspool[metrics]').
"""

EXAMPLES = """\
examples:
  glasspool serve                  all pools of yours that run
  glasspool serve 4242 --open      one program, in your browser at once
  glasspool serve --port 9000      on this port, or not at all
  glasspool serve 4242 --redact    without the arguments of tasks
  GLASSPOOL_TOKEN=long-secret glasspool serve --port 9000
                                   for Prometheus: a token that stays

from another machine (the same port on both sides):
  ssh -L 8909:127.0.0.1:8909 HOST, then open the URL there

paths (all need the token, as ?token= or "Authorization: Bearer"):
  /  /api/snapshot  /api/events  /api/history  /api/records  /api/slowest
  /api/stack  /api/flame  /metrics  /openapi.json  /healthz

exit codes:
   0  ended by Ctrl-C
   2  bad usage, or it cannot listen
   3  no such process
   4  the process is no Python program
   5  a Python program, but no pool was found in it
"""


def main(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C and return the exit code."""
    options = make_parser().parse_args(list(arguments))
    try:
        extras.load("starlette", "web")
        extras.load("uvicorn", "web")
    except extras.MissingExtra as error:
        return complain(str(error))
    if (refusal := _refusal(options)) is not None:
        return complain(refusal)
    from glasspool.observe.watch import Watch
    from glasspool.views.web.feed import MOST_RECORDS

    watch = Watch(options.pid, redact=options.redact, most=MOST_RECORDS)
    try:
        return _watched(watch, options)
    except KeyboardInterrupt:
        return codes.FINE  # Ctrl-C is how it ends
    finally:
        watch.close()


def _refusal(options: argparse.Namespace) -> str | None:
    """Return why these options cannot be followed, if so."""
    if not _is_loopback(options.host):
        return (
            f"--host {options.host}: only this machine itself may be listened on (127.0.0.1, ::1, "
            "localhost), as what the page shows goes unencrypted; from another machine use ssh -L"
        )
    token = options.token
    if token is not None and (len(token) < _LEAST_TOKEN or not _GOOD_TOKEN.issuperset(token)):
        return f"--token: give at least {_LEAST_TOKEN} letters, digits or signs of - . _ ~ + / ="
    return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # Others of 127.0.0.0/8 would be loopback, too, but no browser's Host header may name them.
    return str(address) in ("127.0.0.1", "::1")


def _watched(watch: Watch, options: argparse.Namespace) -> int:
    """Look whether there is something to watch, then serve it."""
    if options.pid is not None:
        seen = watch.look()
        if seen.problem in ("gone", "not-python", "no-pool"):
            return codes.complain(seen.problem, seen.text)
        if seen.problem is not None:
            print(f"glasspool: {seen.text}", file=sys.stderr)
    try:
        listener = _listen(options.host, options.port)
    except OSError as error:
        return complain(_why_not(options, error))
    with listener:
        return _serve(watch, options, listener)


def _listen(host: str, port: int | None) -> socket.socket:
    """Listen on a port; None: the usual one, or the next one that is free.

    Raises:
        OSError: The port is taken, or the system does not allow it.
    """
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    wanted = [port] if port is not None else [*range(PORT, PORT + _PORTS), 0]
    for one in wanted:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            # A port whose last connections have just been closed is free; one that is listened on is not.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, one))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE or one == wanted[-1]:
                raise
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _why_not(options: argparse.Namespace, error: OSError) -> str:
    port = PORT if options.port is None else options.port
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {options.host} is taken; give another --port, or 0 for any"
    return (
        f"cannot listen on port {port} of {options.host}: {(error.strerror or str(error)).lower()}"
    )


def _serve(watch: Watch, options: argparse.Namespace, listener: socket.socket) -> int:
    from glasspool.views.web import app, security
    from glasspool.views.web.feed import Feed

    token = options.token or security.new_token()
    port = listener.getsockname()[1]
    feed = Feed(watch, every_s=options.every)
    what = "all pools" if options.pid is None else f"process {options.pid}"
    made = app.make(feed, token=token, port=port, title=f"glasspool: {what}")
    host = f"[{options.host}]" if ":" in options.host else options.host
    url = f"http://{host}:{port}/?{urlencode({'token': token})}"
    server = _server(made, feed)
    _announce(url, what, port, token, options)
    if options.open:
        import webbrowser

        webbrowser.open(url)  # the port is open already: the browser waits for the answer
    server.run(sockets=[listener])
    return codes.FINE


def _server(made: Any, feed: Feed) -> Any:
    uvicorn = extras.load("uvicorn", "web")
    config = uvicorn.Config(
        made,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,  # it would have the token
        server_header=False,
        proxy_headers=False,  # there is no proxy that could be believed
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    leave = server.handle_exit

    def tell_and_leave(number: int, frame: Any) -> None:
        if not server.should_exit:  # it is leaving already, in at most a second
            feed.tell_end()  # else it would wait for pages that wait for events
            leave(number, frame)

    server.handle_exit = tell_and_leave
    return server


def _announce(url: str, what: str, port: int, token: str, options: argparse.Namespace) -> None:
    if options.json:
        told = {"url": url, "port": port, "token": token, "pid": options.pid}
        text = json.dumps(told)
    else:
        text = f"glasspool serves {what}; Ctrl-C ends it.\n\n  {url}\n"
    # Whoever started it may have closed its output; it serves all the same.
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)


def make_parser() -> argparse.ArgumentParser:
    """Return what reads the command's words."""
    parser = parsing.parser("serve", DESCRIPTION, EXAMPLES)
    parsing.add_program(parser, optional=True)
    parser.add_argument(
        "--port",
        type=_port,
        help=f"the port; 0: any that is free (default {PORT}, or the next one that is free)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="127.0.0.1 (default) or ::1")
    parser.add_argument(
        "--token",
        default=os.environ.get("GLASSPOOL_TOKEN") or None,
        help="what requests must bring (default: $GLASSPOOL_TOKEN, else a random one); others on this "
        "machine can read it in the list of processes, not so the variable",
    )
    parser.add_argument("--open", action="store_true", help="open the page in your browser")
    parser.add_argument("--redact", action="store_true", help="leave out the arguments of tasks")
    parser.add_argument(
        "--every",
        metavar="SECONDS",
        type=parsing.seconds(0.1, 60),
        default=0.5,
        help="how often to look while a page is open (default 0.5)",
    )
    parser.add_argument("--json", action="store_true", help="print the URL as JSON, for programs")
    return parser


def _port(word: str) -> int:
    if not word.isascii() or not word.isdecimal() or not 0 <= int(word) < 65536:
        raise argparse.ArgumentTypeError(f"{word!r} is no port: 0 to 65535")
    return int(word)
