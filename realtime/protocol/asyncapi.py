"""docs/asyncapi.json, and the schemas that docs/protocol.md is made of too, generated from the tables of the code.

Owns the form of that file and the names of schemas. Pure: rows in, text out. The page for people is page.py's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from realtime.protocol.envelope import ErrorReply, Event, OkReply
from realtime.protocol.registry import EventType, Route

VERSION = "1.0.0"
ENVELOPE: tuple[type, ...] = (OkReply, ErrorReply, Event)
FEATURES = ("accounts", "calls", "channels", "chat", "media", "presence_api", "push", "session", "wallet")


def asyncapi(routes: Sequence[Route], events: Sequence[EventType]) -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document as JSON values."""
    schemas = Schemas(routes, events)
    requests = {_id(route.op): _request_message(route, schemas.name(route.data)) for route in routes}
    replies = {_id(route.op) + "Ok": _reply_message(route, schemas.name(route.ok)) for route in routes}
    happenings = {_id(event.name) + "Event": _event_message(event, schemas.name(event.data)) for event in events}
    common = {
        "error": {"name": "error", "payload": {"$ref": "#/components/schemas/ErrorReply"}},
        "ack": {
            "name": "ack",
            "summary": "Acknowledges events that must be known to have arrived.",
            "payload": {
                "type": "object",
                "required": ["ack"],
                "properties": {"ack": {"type": "array", "items": {"type": "string"}}},
            },
        },
    }
    messages = requests | replies | happenings | common

    def reference(names: Iterable[str]) -> list[dict[str, str]]:
        return [{"$ref": f"#/channels/socket/messages/{name}"} for name in names]

    operations: dict[str, Any] = {
        _id(route.op): {
            "action": "receive",
            "summary": route.summary or route.op,
            "channel": {"$ref": "#/channels/socket"},
            "messages": reference([_id(route.op)]),
            "reply": {
                "channel": {"$ref": "#/channels/socket"},
                "messages": reference([_id(route.op) + "Ok", "error"]),
            },
        }
        for route in routes
    }
    operations["events"] = {
        "action": "send",
        "summary": "Events of the user's stream and of joined channels.",
        "channel": {"$ref": "#/channels/socket"},
        "messages": reference(happenings),
    }
    operations["acknowledge"] = {
        "action": "receive",
        "channel": {"$ref": "#/channels/socket"},
        "messages": reference(["ack"]),
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "talkmeter",
            "version": VERSION,
            "description": "Signalling and per-minute billing over one WebSocket per device.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "127.0.0.1:8080", "protocol": "ws"}},
        "channels": {
            "socket": {
                "address": "/v1/socket",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {"ws": {"method": "GET"}},
            }
        },
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas.by_name},
    }


def render_asyncapi(routes: Sequence[Route], events: Sequence[EventType]) -> str:
    return json.dumps(asyncapi(routes, events), indent=1, sort_keys=True) + "\n"


def _id(name: str) -> str:
    first, *rest = name.replace(".", "_").split("_")
    return first + "".join(word.title() for word in rest)


def _request_message(route: Route, schema: str) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "id": {"anyOf": [{"type": "string", "maxLength": 64}, {"type": "integer"}]},
        "op": {"const": route.op},
        "data": {"$ref": f"#/components/schemas/{schema}"},
    }
    required = ["id", "op"]
    if route.mutation:
        properties["key"] = {"type": "string", "minLength": 1, "maxLength": 128}
        required.append("key")
    return {"name": route.op, "payload": {"type": "object", "required": required, "properties": properties}}


def _reply_message(route: Route, schema: str) -> dict[str, Any]:
    properties = {
        "re": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "ok": {"$ref": f"#/components/schemas/{schema}"},
    }
    return {
        "name": f"{route.op} ok",
        "payload": {"type": "object", "required": ["re", "ok"], "properties": properties},
    }


def _event_message(event: EventType, schema: str) -> dict[str, Any]:
    properties = {
        "event": {"const": event.name},
        "stream": {"type": "string"},
        "epoch": {"type": "string"},
        "offset": {"type": "integer"},
        "event_id": {"type": "string"},
        "v": {"type": "integer"},
        "ts_ms": {"type": "integer"},
        "data": {"$ref": f"#/components/schemas/{schema}"},
    }
    return {
        "name": event.name,
        "summary": event.summary or event.name,
        "payload": {"type": "object", "required": ["event", "stream", "data"], "properties": properties},
    }


class Schemas:
    """JSON schemas of all structs that the tables name, and of those within, under names that are unique.

    Two features may each have a `HistoryData`: then both are called by their feature, as `CallsHistoryData`.
    """

    def __init__(self, routes: Sequence[Route], events: Sequence[EventType]) -> None:
        types: list[type] = [route.data for route in routes] + [route.ok for route in routes]
        types = list(dict.fromkeys([*types, *(event.data for event in events), *ENVELOPE]))
        references, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
        renamed = {name: _short_name(name) for name in components}
        text = json.dumps(components)
        for name, short in renamed.items():
            text = text.replace(f'"#/components/schemas/{name}"', f'"#/components/schemas/{short}"')
        self.by_name: dict[str, Any] = {renamed[name]: schema for name, schema in json.loads(text).items()}
        self._names = {
            type_: renamed[str(reference["$ref"]).rpartition("/")[2]]
            for type_, reference in zip(types, references, strict=True)
        }

    def name(self, type_: type) -> str:
        return self._names[type_]

    def of(self, type_: type) -> dict[str, Any]:
        schema: dict[str, Any] = self.by_name[self._names[type_]]
        return schema


def _short_name(name: str) -> str:
    """`realtime.calls.handlers.HistoryData` (or with underscores) -> `CallsHistoryData`."""
    for feature in FEATURES:
        for mark in (".", "_"):
            if name.startswith(f"realtime{mark}{feature}{mark}"):
                return feature.title().replace("_", "") + name.rpartition(mark)[2]
    return name
