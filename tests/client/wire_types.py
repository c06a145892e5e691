"""The server's schemas as TypeScript, for the compiler to hold against the client's own types.

`python -m tests.client.wire_types` writes realtime/web/client/check/wire.ts; `npm run build` there compiles it with
check/conforms.ts, and fails when src/protocol.ts says something else.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect as schema

import realtime
from realtime.catalog import event_table, route_table

FILE = Path(realtime.__file__).parent / "web" / "client" / "check" / "wire.ts"
HEAD = """\
// What the server takes, answers and tells, made from its schemas by `python -m tests.client.wire_types`.
// Values of strings are not compared: the client leaves them open, since more may come.
"""


def render() -> str:
    """Return the text of wire.ts."""
    routes, events = route_table(), event_table()
    return HEAD + "".join(
        [
            _interface("Takes", ((route.op, route.data) for route in routes), given=False),
            _interface("Gives", ((route.op, route.ok) for route in routes), given=True),
            _interface("Tells", ((event.name, event.data) for event in events), given=True),
        ]
    )


def _interface(name: str, rows: Iterable[tuple[str, type]], *, given: bool) -> str:
    by_key = sorted(rows, key=lambda row: row[0])
    lines = [f'  "{key}": {_typed(schema.type_info(row), given)};\n' for key, row in by_key]
    return f"\nexport interface {name} {{\n{''.join(lines)}}}\n"


def _typed(info: schema.Type, given: bool) -> str:
    """Return a type as it travels; `given`: from the server, which leaves out only what its struct leaves out."""
    match info:
        case schema.StrType() | schema.UUIDType() | schema.LiteralType():
            return "string"
        case schema.IntType() | schema.FloatType():
            return "number"
        case schema.BoolType():
            return "boolean"
        case schema.NoneType():
            return "null"
        case schema.AnyType() | schema.RawType():
            return "unknown"
        case schema.ListType():
            return f"Array<{_typed(info.item_type, given)}>"
        case schema.DictType():
            return f"Record<string, {_typed(info.value_type, given)}>"
        case schema.UnionType():
            kinds = [_typed(each, given) for each in info.types if not _is_unset(each)]
            return " | ".join(dict.fromkeys(kinds))
        case schema.StructType():
            return _object(info, given)
        case _:
            raise TypeError(f"{info} has no TypeScript here yet")


def _object(info: schema.StructType, given: bool) -> str:
    if not info.fields:
        return "Record<string, never>"
    omits: bool = info.cls.__struct_config__.omit_defaults
    fields = []
    for one in info.fields:
        always = one.required or (given and not omits and not _may_be_unset(one.type))
        fields.append(f"{one.encode_name}{'' if always else '?'}: {_typed(one.type, given)}")
    return f"{{ {'; '.join(fields)} }}"


def _may_be_unset(info: schema.Type) -> bool:
    return isinstance(info, schema.UnionType) and any(map(_is_unset, info.types))


def _is_unset(info: Any) -> bool:
    return isinstance(info, schema.CustomType) and info.cls is msgspec.UnsetType


if __name__ == "__main__":
    FILE.write_text(render())
