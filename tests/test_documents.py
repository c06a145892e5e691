"""The generated documents are those of the code, and live traffic is what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from realtime.catalog import event_table, route_table
from realtime.documents import documents

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize("name", ["protocol.md", "asyncapi.json", "settings.md", "calls.md", "tariffs.md"])
def test_generated_documents_are_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text() == documents()[name], "run `talkmeter docs`"


def test_every_operation_and_event_is_described() -> None:
    assert [route.op for route in route_table() if not route.summary] == []
    assert [event.name for event in event_table() if not event.summary] == []


def test_operations_and_events_are_named_once() -> None:
    ops = [route.op for route in route_table()]
    events = [event.name for event in event_table()]
    assert len(ops) == len(set(ops))
    assert len(events) == len(set(events))


def test_every_reference_in_the_asyncapi_file_leads_somewhere() -> None:
    document = json.loads(documents()["asyncapi.json"])

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                place = document
                for part in value["$ref"].removeprefix("#/").split("/"):
                    place = place[part]
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(document)
    assert document["asyncapi"] == "3.0.0"


def test_every_schema_is_valid_json_schema() -> None:
    document = json.loads(documents()["asyncapi.json"])
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
