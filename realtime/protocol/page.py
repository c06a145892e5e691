"""The tables of docs/protocol.md: operations, events, shapes, errors and close codes, as Markdown.

Owns their form. Pure: rows in, text out. What stands before them, how a client behaves, is realtime/guide.py's.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from realtime.protocol.asyncapi import ENVELOPE, Schemas
from realtime.protocol.close_codes import CloseCode
from realtime.protocol.errors import TalkmeterError, all_errors
from realtime.protocol.registry import EventType, Route

ATTRIBUTES: Final = "Attributes:"
STANDARD_CODES: Final = """\
What breaks RFC 6455 itself is closed with its codes (1002, 1007). These, and a loss without a close frame, are losses:
reconnect and resume.
"""
LIMITS: Final = (  # of a JSON schema: least, most, and what is counted
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
)


def tables(routes: Sequence[Route], events: Sequence[EventType]) -> str:
    """Return the tables, with a heading for each part."""
    schemas = Schemas(routes, events)
    out = ["## Operations\n"]
    for route in sorted(routes, key=lambda route: route.op):
        marks = [mark for mark, on in (("key", route.mutation), ("inline", route.inline)) if on]
        marks += [f"role {role}" for role in sorted(route.roles)]
        marks += [f"cost {route.cost}"] if route.cost != 1 else []
        out.append(f"### `{route.op}`" + (f" ({', '.join(marks)})" if marks else "") + "\n")
        out.append(route.summary + "\n")
        out.append(_fields("data", schemas.of(route.data)))
        out.append(_fields("ok", schemas.of(route.ok)))
    out.append("## Events\n")
    for event in sorted(events, key=lambda event: event.name):
        kind = "durable" if event.durable else "logged" if event.logged else "ephemeral"
        out.append(f"### `{event.name}` ({kind}{', acknowledge' if event.ack else ''})\n")
        out.append(event.summary + "\n")
        out.append(_fields("data", schemas.of(event.data)))
    out.append("## Shapes\n")
    top = {schemas.name(type_) for route in routes for type_ in (route.data, route.ok)}
    top |= {schemas.name(event.data) for event in events} | {schemas.name(type_) for type_ in ENVELOPE}
    out += [_shape(name, schema) for name, schema in sorted(schemas.by_name.items()) if name not in top]
    out += [_errors(all_errors()), _close_codes(CloseCode)]
    return "\n".join(part.rstrip() + "\n" for part in out)


def _fields(title: str, schema: dict[str, Any]) -> str:
    if not schema.get("properties"):
        return f"`{title}`: no fields.\n"
    words, notes = _described(schema)
    return f"`{title}`:{' ' + words if words else ''}\n\n{_rows(schema, notes)}\n"


def _shape(name: str, schema: dict[str, Any]) -> str:
    words, notes = _described(schema)
    return f"### {name}\n\n{words}\n\n{_rows(schema, notes)}\n"


def _described(schema: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Return what the struct's docstring says of the whole, and of each field under `Attributes:`."""
    words, _, attributes = inspect.cleandoc(str(schema.get("description", ""))).partition(ATTRIBUTES)
    notes: dict[str, str] = {}
    for names, note in re.findall(r"^    (\w+(?:, \w+)*): (.+(?:\n {8}.+)*)", attributes, re.MULTILINE):
        notes |= dict.fromkeys(names.split(", "), " ".join(note.split()).removesuffix("."))
    return " ".join(words.split()), notes


def _rows(schema: dict[str, Any], notes: dict[str, str]) -> str:
    required = set(schema.get("required", ()))
    rows = ["| field | type | |", "|---|---|---|"]
    for name, field in schema.get("properties", {}).items():
        default = f"default `{json.dumps(field['default'])}`" if "default" in field else "optional"
        said = [notes.get(name, ""), "" if name in required else default]
        rows.append(f"| `{name}` | {cell(type_words(field))} | {cell('; '.join(filter(None, said)))} |")
    return "\n".join(rows)


def cell(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def type_words(schema: dict[str, Any]) -> str:
    """Say a JSON schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(type_words(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"list of {type_words(schema.get('items', {}))}"
    said = [_range(schema, least, most) + counted for least, most, counted in LIMITS if {least, most} & schema.keys()]
    said += [f"`{schema['pattern']}`"] if "pattern" in schema else []
    return ", ".join([kind, *said])


def _range(schema: dict[str, Any], least: str, most: str) -> str:
    if most not in schema:
        return f"at least {schema[least]}"
    return f"{schema[least]} to {schema[most]}" if least in schema else f"at most {schema[most]}"


def _errors(errors: Sequence[type[TalkmeterError]]) -> str:
    rows = ["## Errors\n", "| code | a repeat may help | next action | meaning |", "|---|---|---|---|"]
    for error in sorted(errors, key=lambda error: error.code):
        meaning = " ".join((error.__doc__ or "").split())
        rows.append(
            f"| `{error.code}` | {'yes' if error.retryable else 'no'} | {error.next_action or ''} | {meaning} |"
        )
    return "\n".join(rows) + "\n"


def _close_codes(codes: Iterable[CloseCode]) -> str:
    rows = ["## Close codes\n", "| code | reason | when | what a client does |", "|---|---|---|---|"]
    rows += [f"| {int(code)} | `{code.reason}` | {code.meaning} | {_reaction(code)} |" for code in codes]
    return "\n".join(rows) + "\n\n" + STANDARD_CODES


def _reaction(code: CloseCode) -> str:
    if code.reconnect:
        return "waits longer, then reconnects and resumes" if code.patient else "reconnects with backoff and resumes"
    return f"stops: {code.next_action}" if code.next_action else "stops"
