"""Fixtures of push: Google's side on loopback, and the real firebase-admin sender against it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from realtime.push.fcm import FcmSender
from tests.push.fake_fcm import FakeFcm, Trust, fake_fcm, make_trust


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder: Path = tmp_path_factory.mktemp("tls")
    return make_trust(folder)


@pytest.fixture
async def fcm(trust: Trust, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeFcm]:
    monkeypatch.setenv("SSL_CERT_FILE", str(trust.chain))
    async with fake_fcm(trust) as fake:
        yield fake


@pytest.fixture
async def sender(fcm: FakeFcm) -> AsyncIterator[FcmSender]:
    sender = FcmSender(fcm.certificate, url=fcm.url)
    yield sender
    await sender.close()
