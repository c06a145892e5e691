"""Settings: read once, checked once, a wrong one named with what it should be."""

from __future__ import annotations

import pytest

from realtime.config import Settings, SettingsError, load, to_environ


def test_defaults_listen_on_loopback_only() -> None:
    settings = load({})
    assert settings.host == "127.0.0.1"
    assert settings.loopback
    assert not settings.dev


def test_values_are_read_by_type() -> None:
    settings = load({"TALKMETER_PORT": "9000", "TALKMETER_DEV": "true", "OTHER": "x"})
    assert settings.port == 9000
    assert settings.dev is True


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("TALKMETER_PORT", "http", "expected `int`"),
        ("TALKMETER_PORT", "70000", "<= 65535"),
        ("TALKMETER_LOG_LEVEL", "loud", "invalid enum value"),
        ("TALKMETER_REDIS_PREFIX", "{bad}", "regex"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_should_be(variable: str, value: str, expected: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load({variable: value})
    assert variable in str(refused.value)
    assert expected in str(refused.value)


def test_an_unknown_variable_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match="TALKMETER_PROT is not a setting"):
        load({"TALKMETER_PROT": "9000"})


def test_development_is_refused_off_loopback_unless_forced() -> None:
    with pytest.raises(SettingsError, match=r"refused on 0\.0\.0\.0"):
        load({}, dev=True, host="0.0.0.0")
    assert load({}, dev=True, host="0.0.0.0", dev_force=True).dev
    assert load({}, dev=True, host="::1").dev


def test_halves_of_a_pair_are_refused() -> None:
    with pytest.raises(SettingsError, match="TLS"):
        load({"TALKMETER_TLS_CERTIFICATE": "cert.pem"})
    with pytest.raises(SettingsError, match="AGORA_APP_ID"):
        load({"TALKMETER_MEDIA_PROVIDER": "agora"})


def test_workers_read_the_same_settings_from_their_environment() -> None:
    settings = load({"TALKMETER_PORT": "9000"}, dev=True, database_url="postgresql://x@/y?host=/tmp")
    assert load(to_environ(settings)) == settings
    assert isinstance(settings, Settings)
