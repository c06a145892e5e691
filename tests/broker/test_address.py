"""Redis URLs."""

from __future__ import annotations

import ssl

import pytest

from realtime.broker.address import Address, BadRedisUrl, read_url


def test_one_server_by_socket_and_by_port() -> None:
    assert read_url("unix:///run/valkey.sock").addresses == (Address(path="/run/valkey.sock"),)
    one = read_url("redis://anna:s%40cret@db.example:6380/2")
    assert one.kind == "single"
    assert one.addresses == (Address("db.example", 6380),)
    assert (one.username, one.password, one.db, one.tls) == ("anna", "s@cret", 2, None)
    assert read_url("redis://db.example").addresses == (Address("db.example", 6379),)


def test_sentinels_name_a_service_and_have_passwords_of_their_own() -> None:
    url = read_url("redis+sentinel://:pw@s1:1,s2:2,s3/1?service=calls&sentinel_password=other")
    assert url.kind == "sentinel"
    assert url.addresses == (Address("s1", 1), Address("s2", 2), Address("s3", 26379))
    assert (url.service, url.password, url.sentinel_password, url.db) == ("calls", "pw", "other", 1)
    by_path = read_url("redis+sentinel://s1,s2/calls/2")
    assert (by_path.service, by_path.db) == ("calls", 2)
    assert read_url("redis+sentinel://s1").service == "mymaster"


def test_a_cluster_has_one_database() -> None:
    url = read_url("redis+cluster://n1:7000,n2:7001")
    assert (url.kind, url.addresses, url.db) == ("cluster", (Address("n1", 7000), Address("n2", 7001)), 0)


def test_tls_checks_the_other_end_unless_told_otherwise() -> None:
    strict = read_url("rediss://db.example").tls
    assert strict is not None
    assert (strict.check_hostname, strict.verify_mode) == (True, ssl.CERT_REQUIRED)
    loose = read_url("rediss+cluster://db.example?ssl_cert_reqs=none").tls
    assert loose is not None
    assert (loose.check_hostname, loose.verify_mode) == (False, ssl.CERT_NONE)


BAD = ("http://x", "valkey://x", "unix+cluster:///x", "redis+magic://x", "unix://", "redis://x:port", "nonsense", "")


@pytest.mark.parametrize("url", BAD)
def test_what_is_no_redis_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(BadRedisUrl):
        read_url(url)


def test_passwords_are_not_shown() -> None:
    assert "secret" not in repr(read_url("redis+sentinel://:secret@s1?sentinel_password=secret2"))
