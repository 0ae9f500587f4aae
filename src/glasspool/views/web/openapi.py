"""The description of the API, as OpenAPI 3.1: its schemas are made from the frozen values themselves."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import types
import typing
from typing import Any

from glasspool import snapshot
from glasspool._version import __version__
from glasspool.observe.history import RECORD_FIELDS, RECORDS, SECONDS, SLOWEST
from glasspool.observe.pace import Pace

_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}
_RECORD_TYPES: dict[str, Any] = {
    "pool": str,
    "slot": int | None,
    "pid": int | None,
    "task": int,
    "function": str,
    "status": str,
    "begun_ns": int | None,
    "ended_ns": int | None,
    "result_bytes": int | None,
    "node": str | None,
}


@functools.cache
def document() -> dict[str, Any]:
    """Return the description as plain values."""
    schemas = _schemas()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "glasspool serve",
            "version": __version__,
            "description": _DESCRIPTION,
        },
        "security": [{"query": []}, {"bearer": []}],
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "query": {"type": "apiKey", "in": "query", "name": "token"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


_DESCRIPTION = """\
What the pools of a program do, as a watch sees them from outside. Every request needs the token that the
server printed, a Host header that names this machine itself, and no foreign Origin; it gets 403 otherwise.
`*_s` are seconds, `*_bytes` bytes, `*_at` seconds since the epoch, `*_ns` nanoseconds of the clock of
Python's time.monotonic_ns(), of which `now_ns` is the present."""


# Schemas ------------------------------------------------------------------------------------------


def _schemas() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for cls in (snapshot.Snapshot, Pace):
        _add(cls, found)
    picture = found.pop("Snapshot")
    found["State"] = {
        "type": "object",
        "description": (
            "The snapshot of `glasspool ps --json` and what the watch says of it. `past`: it is the last "
            "that was seen before the pools ended. `problem` and `text` say what keeps it from being whole."
        ),
        "properties": {
            **picture["properties"],
            "past": {"type": "boolean"},
            "problem": {"type": ["string", "null"]},
            "text": {"type": "string"},
            "paces": {"type": "object", "additionalProperties": _ref("Pace")},
            "now_ns": {"type": "integer"},
            "sampling": {"type": "boolean"},
        },
        "required": [*picture["required"], "past", "problem", "text", "paces", "now_ns"],
    }
    found["Record"] = {
        "type": "array",
        "description": f"One task that has ended: {', '.join(RECORD_FIELDS)}.",
        "prefixItems": [
            {**_schema(_RECORD_TYPES[name], found), "title": name} for name in RECORD_FIELDS
        ],
        "minItems": len(RECORD_FIELDS),
    }
    found.update(_others())
    return dict(sorted(found.items()))


def _others() -> dict[str, Any]:
    integer, number, text = _PLAIN[int], _PLAIN[float], _PLAIN[str]
    values = {"type": "array", "items": {"type": ["number", "null"]}}
    names = ("done", "failed", "waiting", "running", "busy_share")
    frames = {"type": "array", "items": _ref("Frame")}
    nodes = {"type": "array", "items": _ref("FlameNode")}
    return {
        "Records": _object({"records": _list("Record"), "lost": integer}, least=("records",)),
        "History": _object(
            {
                "now_ns": integer,
                "every_s": number,
                "pools": {"type": "object", "additionalProperties": _ref("Series")},
            }
        ),
        "Series": _object(dict.fromkeys(names, values)),
        "Stack": _object(
            {
                "pid": integer,
                "tid": integer,
                "name": text,
                "stack": {"anyOf": [frames, {"type": "null"}]},
                "note": {"type": ["string", "null"]},
            }
        ),
        "Flame": _object({"samples": integer, "root": _ref("FlameNode")}),
        "FlameNode": _object({"name": text, "value": integer, "children": nodes}),
        "Sampling": _object({"on": _PLAIN[bool]}),
        "Health": _object({"status": text, "pages": integer}),
        "Error": _object({"error": text}),
    }


def _object(
    properties: dict[str, Any], least: typing.Iterable[str] | None = None
) -> dict[str, Any]:
    required = list(properties if least is None else least)
    return {"type": "object", "properties": properties, "required": required}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(name: str) -> dict[str, Any]:
    return {"type": "array", "items": _ref(name)}


def _add(cls: Any, found: dict[str, Any]) -> None:
    """Add the schema of a frozen class, and of those that it holds."""
    if cls.__name__ in found:
        return
    found[cls.__name__] = {}  # it may hold itself
    hints = typing.get_type_hints(cls)
    properties = {one.name: _schema(hints[one.name], found) for one in dataclasses.fields(cls)}
    found[cls.__name__] = {
        "type": "object",
        "description": (cls.__doc__ or "").strip(),
        "properties": properties,
        "required": list(properties),
    }


def _schema(hint: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of what ``as_plain`` makes of a value of this type."""
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if dataclasses.is_dataclass(hint):
        _add(hint, found)
        return _ref(hint.__name__)  # type: ignore[union-attr]  # a class, as annotations are
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _one_of([_schema(one, found) for one in inner])
    if origin is tuple and len(inner) == 2 and inner[1] is Ellipsis:
        return {"type": "array", "items": _schema(inner[0], found)}
    if origin is tuple:
        items = [_schema(one, found) for one in inner]
        return {"type": "array", "prefixItems": items, "minItems": len(items)}
    if origin is collections.abc.Mapping:
        return {"type": "object", "additionalProperties": _schema(inner[1], found)}
    raise TypeError(f"no schema for {hint!r}")


def _one_of(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    if all(set(one) == {"type"} for one in schemas):
        return {"type": [one["type"] for one in schemas]}
    return {"anyOf": schemas}


# Paths --------------------------------------------------------------------------------------------


def _paths() -> dict[str, Any]:
    limit = _parameter("limit", f"At most so many, up to {RECORDS:,}; 1,000 if not given.")
    since = _parameter("since_ns", "Only of tasks that ended after this.")
    pid = _parameter("pid", "The process.", required=True)
    tid = _parameter("tid", "The thread as the system numbers it; the main thread if not given.")
    node = _parameter("node", "The node of a cluster on which it is.", kind="string")
    body = {"required": True, "content": {"application/json": {"schema": _ref("Sampling")}}}
    return {
        "/": _get("The page, readable without JavaScript", None, kind="text/html"),
        "/api/snapshot": _get("The pools, with all processes, threads and open tasks", "State"),
        "/api/events": _get(_EVENTS, None, kind="text/event-stream"),
        "/api/history": _get(f"Counters by second, of the last {SECONDS} seconds", "History"),
        "/api/records": _get("The last tasks that ended", "Records", limit, since),
        "/api/slowest": _get(f"The slowest {SLOWEST} tasks of all that were seen", "Records"),
        "/api/stack": _get("The stack of one thread, taken now", "Stack", pid, tid, node),
        "/api/sampling": {
            "post": {
                "summary": "Begin or end to sample the stacks of all threads, twice a second",
                "operationId": "set_sampling",
                "requestBody": body,
                "responses": _responses("Sampling", "application/json"),
            }
        },
        "/api/flame": _get("The sampled stacks, folded into a tree", "Flame"),
        "/openapi.json": _get("This description", None, kind="application/json"),
        "/metrics": _get("Metrics for Prometheus, or OpenMetrics by the Accept header", None),
        "/healthz": _get("Whether the server lives", "Health"),
    }


_EVENTS = (
    "Server-sent events: `state` (State, twice a second; of replaced workers and waiting tasks the last or "
    "first hundreds only), `records` (Records and `now_ns`, four times a second), `end` once the program has "
    "ended"
)


def _parameter(
    name: str, words: str, *, required: bool = False, kind: str = "integer"
) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": words,
        "required": required,
        "schema": {"type": kind, "minimum": 0} if kind == "integer" else {"type": kind},
    }


def _get(
    words: str, schema: str | None, *parameters: dict[str, Any], kind: str | None = None
) -> dict[str, Any]:
    kind = kind or ("application/json" if schema else "text/plain")
    summary = words.split(":")[0]
    described: dict[str, Any] = {"summary": summary, "operationId": "get_" + _slug(summary)}
    if summary != words:
        described["description"] = words
    if parameters:
        described["parameters"] = list(parameters)
    return {"get": {**described, "responses": _responses(schema, kind)}}


def _slug(words: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in words.lower()).split()[:5])


def _responses(schema: str | None, kind: str) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {"schema": _ref(schema) if schema else {}}}
    return {
        "200": {"description": "As asked for.", "content": content},
        "403": {
            "description": "No token, a foreign host or a foreign origin; nothing else is said."
        },
        "default": {
            "description": "What was asked for cannot be had: the text says why.",
            "content": {"application/json": {"schema": _ref("Error")}},
        },
    }
