"""The arrows of docs/architecture.md, checked by reading the imports of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("realtime", "billing", "presence")
FEATURES = ("accounts", "calls", "channels", "chat", "media", "presence_api", "push", "wallet")
# Who joins the parts: these may import everything.
COMPOSITION = {
    "realtime/app.py",
    "realtime/catalog.py",
    "realtime/upkeep.py",
    "realtime/joints.py",
    "realtime/serve.py",
    "realtime/cli.py",
    "realtime/__main__.py",
    "realtime/documents.py",
}
# What features stand on; none of it may import a feature.
FOUNDATION = (
    "protocol",
    "transport",
    "broker",
    "dispatch",
    "mutations",
    "rates",
    "request",
    "outbox",
    "idempotency",
    "hub",
    "embedded",
    "migrate",
    "config",
    "database",
    "ids",
    "sql",
)


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return the dotted names that a module imports from our packages, at any depth of the file."""
    found: set[str] = set()
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join(parts[: len(parts) - node.level + 1] + ([base] if base else []))
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] in PACKAGES}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("package", ["billing", "presence"])
def test_billing_and_presence_import_only_themselves(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        strangers = {name for name in imports(path) if name.split(".")[0] != package}
        assert not strangers, f"{relative(path)} imports {strangers}"


def test_the_batcher_is_neutral() -> None:
    """It lives in billing, which imports only itself, and serves features that know nothing of money."""
    assert not imports(ROOT / "billing" / "batcher.py")


def test_a_feature_never_imports_another_features_store() -> None:
    for path in modules():
        own = path.relative_to(ROOT).parts[1] if path.parts[-2] != "realtime" else ""
        for name in imports(path):
            parts = name.split(".")
            if len(parts) >= 3 and parts[0] == "realtime" and parts[1] in FEATURES and parts[2] == "store":
                assert parts[1] == own or relative(path) in COMPOSITION, f"{relative(path)} imports {name}"


def test_the_foundation_imports_no_feature() -> None:
    for path in modules():
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] != "realtime" or len(parts) < 2 or parts[1] not in FOUNDATION:
            continue
        for name in imports(path):
            words = name.split(".")
            assert words[0] == "realtime", f"{relative(path)} imports {name}"
            assert len(words) < 2 or words[1] not in FEATURES, f"{relative(path)} imports {name}"


def test_only_the_composition_root_imports_the_composition_root() -> None:
    for path in modules():
        if relative(path) not in COMPOSITION:
            assert "realtime.app" not in imports(path), relative(path)


def test_the_protocol_imports_nothing_outside_itself() -> None:
    for path in sorted((ROOT / "realtime" / "protocol").rglob("*.py")):
        strangers = {name for name in imports(path) if not name.startswith("realtime.protocol")}
        assert not strangers - {"realtime"}, f"{relative(path)} imports {strangers}"


def test_rules_are_pure() -> None:
    forbidden = {"asyncio", "asyncpg", "redis", "time", "datetime", "random", "os", "socket"}
    pure = [
        path for path in modules() if path.name in {"rules.py", "tariffs.py", "states.py", "visibility.py", "decide.py"}
    ]
    assert pure
    for path in pure:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & forbidden, f"{relative(path)} does I/O or reads a clock"
