"""Mutated frames for a bounded number of connections: no crash, no leak, no other socket disturbed.

Seeded, so that a failure repeats. A failure names the connection's number; its bytes follow from it.
"""

from __future__ import annotations

import asyncio
import logging
import random

import pytest

from realtime.transport import frames

from .sockets import Harness, RawClient, Recorder, echo, masked, upgrade_request

CONNECTIONS = 400
BATCH = 20
SEED = 20_261_121

HEADS = [0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A, 0xC1, 0x83, 0x0B, 0xFF]
PAYLOADS = [b"", b"x", b'{"id":1,"op":"session.ping"}', "häßlich ☎".encode(), b"\xff\xfe", b"y" * 130, b"z" * 70_000]


def stream(number: int) -> bytes:
    """Some frames, most of them right, then damaged: bits flipped, bytes cut out, doubled, or made up."""
    rng = random.Random(SEED + number)
    data = bytearray()
    for _ in range(rng.randint(1, 12)):
        head = rng.choice(HEADS) if rng.random() < 0.5 else 0x81
        data += masked(rng.choice(PAYLOADS), head, mask=rng.randbytes(4))
    for _ in range(rng.randint(0, 4)):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[place : place + 1] = bytes((rng.randrange(256),))
            case 1:
                del data[place : place + rng.randint(1, 9)]
            case 2:
                data[place:place] = data[place : place + rng.randint(1, 9)]
            case 3:
                data[place:place] = rng.randbytes(rng.randint(1, 20))
    return bytes(data)


async def throw(harness: Harness, raw: RawClient, number: int) -> None:
    rng = random.Random(number)
    data = stream(number)
    await raw.upgrade()
    while data and not raw.writer.transport.is_closing():
        size = rng.choice([1, 3, 50, 100_000])
        raw.send(data[:size])
        data = data[size:]
        await asyncio.sleep(0)
    if rng.random() < 0.5:
        raw.writer.transport.abort()
    elif not raw.writer.transport.is_closing():
        raw.writer.write_eof()
        await raw.ended()


@pytest.mark.parametrize("compression", [False, True])
async def test_mutated_frames_disturb_nobody(
    harness: Harness, caplog: pytest.LogCaptureFixture, compression: bool
) -> None:
    caplog.set_level(logging.WARNING)
    problems: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    recorder = Recorder(answer=echo)
    server = await harness.serve(recorder, compression=compression, message_bytes_max=80_000)
    good = await harness.raw(server)
    for start in range(0, CONNECTIONS, BATCH):
        raws = [await harness.tcp(server) for _ in range(BATCH)]
        await asyncio.gather(*(throw(harness, raw, start + index) for index, raw in enumerate(raws)))
        good.send(masked(b"%d" % start))
        assert await good.frame() == (frames.TEXT, b"%d" % start)
    assert server.endpoint is not None
    await recorder.until(lambda: server.endpoint is not None and len(server.endpoint.connections) == 1)
    assert len(recorder.closes) == CONNECTIONS
    assert server.endpoint.gate.sockets == 1
    assert problems == []
    assert [record for record in caplog.records if record.name.startswith("realtime")] == []


async def test_mutated_upgrades_disturb_nobody(harness: Harness) -> None:
    problems: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    recorder = Recorder(answer=echo)
    server = await harness.serve(recorder)
    good = await harness.raw(server)
    for number in range(300):
        rng = random.Random(SEED + number)
        data = bytearray(upgrade_request())
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(data))
            data[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        raw = await harness.tcp(server)
        raw.send(bytes(data))
        raw.writer.write_eof()
        await raw.ended()
    good.send(masked(b"still here"))
    assert await good.frame() == (frames.TEXT, b"still here")
    assert problems == []
