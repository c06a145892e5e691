"""A few rounds of the crash test in every run; `make crash` plays thirty."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.crash.rounds import play


@pytest.mark.crash
def test_acknowledged_operations_survive_crashes_once() -> None:
    with tempfile.TemporaryDirectory(prefix="tm-crash-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        counts = play(folder, 3, seed=20)
    assert counts["told_gift"] > 0
    assert counts["told_wired"] > 0
