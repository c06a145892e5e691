"""The generated documents are those of the code, and live traffic is what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from realtime.catalog import event_table, route_table
from realtime.config import PREFIX, Settings
from realtime.documents import documents
from realtime.metrics import HELP
from realtime.protocol.close_codes import CloseCode
from realtime.protocol.errors import all_errors

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", ROOT / "realtime" / "web" / "client" / "README.md", *sorted(DOCS.rglob("*.md")))


def anchors(page: Path) -> set[str]:
    """Return the names by which a page's headings are linked to."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_and_metric_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    settings = {PREFIX + name.upper() for name in Settings.__struct_fields__}
    assert set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", text)) <= settings
    assert set(re.findall(r"talkmeter_[a-z_]+(?:_total|_ms|_faults)", text)) <= HELP.keys()


def test_every_error_is_described_once_and_every_close_code_says_when_and_what_then() -> None:
    page = documents()["protocol.md"]
    rows = re.findall(r"^\| `(\w+)` \| (?:yes|no) \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(error.code for error in all_errors())
    assert len(rows) == len(set(rows))
    for code in CloseCode:
        row = rf"^\| {int(code)} \| `{code.reason}` \| .{{10,}} \| (stops|reconnects|waits)"
        assert re.search(row, page, re.MULTILINE), code
