"""Where signing secrets come from."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from realtime.accounts.keys import KEY_FILE, KeyRing, load_keys, load_secret
from realtime.config import SettingsError


def test_a_data_folder_keeps_one_random_secret_for_its_owner_only(tmp_path: Path) -> None:
    first = load_secret(tmp_path / "data")
    assert load_secret(tmp_path / "data") == first
    assert load_secret(tmp_path / "other") != first
    assert stat.S_IMODE((tmp_path / "data" / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == [KEY_FILE]


def test_processes_that_start_together_get_the_same_secret(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(load_secret, [tmp_path] * 32))) == 1


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_secret(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(SettingsError, match="read by others"):
        load_secret(tmp_path)


def test_the_setting_wins_over_the_data_folder(tmp_path: Path) -> None:
    assert load_keys("k" * 32, tmp_path) == KeyRing("main", {"main": b"k" * 32})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["short", f"a:{'x' * 32},a:{'y' * 32}", f":{'x' * 32}", f"a:{'x' * 32},b:", "", ":"])
def test_keys_that_are_short_or_named_twice_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="TALKMETER_JWT_SECRET"):
        KeyRing.parse(text)
