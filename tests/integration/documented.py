"""Holds live frames against docs/asyncapi.json: what the server sends must be what it says it sends."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

ASYNCAPI = Path(__file__).resolve().parents[2] / "docs" / "asyncapi.json"
BASE = "urn:asyncapi"


@functools.cache
def _document() -> Any:
    return json.loads(ASYNCAPI.read_text())


@functools.cache
def _validator(message: str) -> jsonschema.Draft202012Validator:
    resource = Resource.from_contents(_document(), default_specification=DRAFT202012)
    registry: Registry[Any] = Registry().with_resource(BASE, resource)
    schema = {"$ref": f"{BASE}#/components/messages/{message}/payload"}
    return jsonschema.Draft202012Validator(schema, registry=registry)


@functools.cache
def _message_of(kind: str, name: str) -> str:
    """Return the key of the message that documents an event or the ok of an operation."""
    wanted = name if kind == "event" else f"{name} ok"
    for key, message in _document()["components"]["messages"].items():
        # An event may be named as an operation is: call.signal goes both ways.
        if message["name"] == wanted and (kind == "ok" or "event" in message["payload"]["properties"]):
            return str(key)
    raise AssertionError(f"{name} is not documented")


def check_event(name: str, data: Any) -> None:
    """Raise ValidationError when the event's data is not as documented."""
    _validator(_message_of("event", name)).validate({"event": name, "stream": "user", "data": data})


def check_reply(op: str, ok: Any) -> None:
    """Raise ValidationError when the answer is not as documented."""
    _validator(_message_of("ok", op)).validate({"re": 1, "ok": ok})
