"""The committed build of the TypeScript client is the build of the committed sources."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

import realtime
from realtime.catalog import event_table, route_table
from realtime.client import ACKED_EVENTS, MUTATIONS
from tests.client.wire_types import FILE, render

PACKAGE = Path(realtime.__file__).parent / "web" / "client"


def sources_hash() -> str:
    """Return what build.mjs writes at the head of its outputs; both must read the same files."""
    folders = [file for folder in ("src", "check") for file in (PACKAGE / folder).iterdir()]
    files = ["package.json", "tsconfig.json", "build.mjs", *(f"{file.parent.name}/{file.name}" for file in folders)]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file}\n".encode())
        digest.update((PACKAGE / file).read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("output", ["talkmeter.js", "talkmeter-msgpack.js"])
def test_the_build_is_up_to_date(output: str) -> None:
    head = (PACKAGE / "dist" / output).read_text().partition("\n")[0]
    built_from = re.search(r"sources sha256:([0-9a-f]{64})", head)
    assert built_from is not None
    assert built_from[1] == sources_hash(), "run `npm ci && npm run build` in realtime/web/client"


def test_the_build_was_checked_against_the_schemas_of_today() -> None:
    """The build fails when the client's types and these disagree, and another test when it was not made with these."""
    assert FILE.read_text() == render(), "run `python -m tests.client.wire_types`, then build the client"


def test_every_source_has_its_declarations() -> None:
    sources = {file.stem for file in PACKAGE.glob("src/*.ts")}
    assert {file.name.removesuffix(".d.ts") for file in PACKAGE.glob("dist/types/*.d.ts")} == sources


def test_the_package_names_files_that_exist() -> None:
    exports = json.loads((PACKAGE / "package.json").read_text())["exports"]
    named = [path for entry in exports.values() for path in entry.values()]
    assert [path for path in named if not (PACKAGE / path).is_file()] == []


def test_the_clients_give_a_key_to_every_mutation_of_the_server() -> None:
    assert {route.op for route in route_table() if route.mutation} <= MUTATIONS


def test_the_clients_acknowledge_what_the_server_waits_for() -> None:
    assert {event.name for event in event_table() if event.ack} == ACKED_EVENTS


def test_both_clients_agree_on_what_needs_a_key_and_an_acknowledgement() -> None:
    source = (PACKAGE / "src" / "protocol.ts").read_text()
    for name, ours in (("MUTATIONS", MUTATIONS), ("ACKED_EVENTS", ACKED_EVENTS)):
        listed = re.search(rf"const {name}: ReadonlySet<string> = new Set\(\[(.*?)\]\)", source, re.DOTALL)
        assert listed is not None
        assert set(re.findall(r'"([^"]+)"', listed[1])) == ours


def test_the_types_name_every_operation_and_event_of_the_server() -> None:
    """session.sign_in is the client's own business."""
    source = (PACKAGE / "src" / "protocol.ts").read_text()
    typed = {}
    for interface in ("Ops", "Events"):
        body = re.search(rf"export interface {interface} {{(.*?)^}}", source, re.DOTALL | re.MULTILINE)
        assert body is not None
        typed[interface] = set(re.findall(r'^  "([a-z_.]+)":', body[1], re.MULTILINE))
    assert {route.op for route in route_table()} - typed["Ops"] == {"session.sign_in"}
    assert typed["Ops"] <= {route.op for route in route_table()}
    own = {name for name in typed["Events"] if name.startswith("client.")}
    assert typed["Events"] - own == {event.name for event in event_table()}
