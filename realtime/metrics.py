"""What a node counts, and the page that shows it. Owns names and forms of the metrics; imports the broker only.

Every process, also one without sockets, tells its figures to Redis every few seconds. Any hub's /metrics shows those of
all processes that were heard lately, labelled by node: one scrape of any port sees the jobs too. With Redis away a hub
shows its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import redis.exceptions
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

TELL_EVERY_S: Final = 5.0
FRESH_MS: Final = 20_000
KEY_TTL_S: Final = 3_600
ANSWER_TIMEOUT_S: Final = 1.0

HELP: Final = {
    "talkmeter_connections": "Sockets, signed in or not.",
    "talkmeter_streams": "Streams that this node follows.",
    "talkmeter_requests_total": "Requests that were answered with ok.",
    "talkmeter_outbox_relayed_total": "Durable events that were published.",
    "talkmeter_call_sides": "Sides of calls whose proof of life this node keeps.",
    "talkmeter_gifts_total": "Gifts that were paid.",
    "talkmeter_gift_batches_total": "Transactions that booked gifts.",
    "talkmeter_gifts_waiting": "Gifts that wait for a transaction.",
    "talkmeter_stream_gaps_total": "Gaps in streams that were noticed and filled from the log.",
    "talkmeter_resyncs_total": "Sockets that were told to come back because their stream's history may be lost.",
    "talkmeter_broker_connected": "1 while every stream that is followed has its subscription.",
    "talkmeter_meter_faults": "Meters that this worker set aside since its start; each needs a look.",
    "talkmeter_audit_faults": "Faults that the running audit round has found; anything above 0 needs a human.",
    "talkmeter_audit_clean_ms": "Unix milliseconds of the last audit round that found nothing.",
    "talkmeter_cpu_seconds_total": "CPU time of this process.",
    "talkmeter_rate_limited_total": "Requests that were refused for their rate, by the limit that did.",
    "talkmeter_rates_unshared_total": "Requests judged by this node's own rates, because Redis did not answer.",
}
LABELS: Final = {"talkmeter_rate_limited_total": "limit"}


class Told(msgspec.Struct):
    """One process's figures at a moment."""

    ts_ms: int
    values: dict[str, float]
    labelled: dict[str, dict[str, float]] = {}


class Metrics:
    """The figures of this process and the page of all.

    Args:
        node: name of this process.
        client: redis.asyncio client; stays its maker's.
        prefix: of all keys.
    """

    def __init__(self, node: str, client: Any, prefix: str) -> None:
        self._node = node
        self._client = client
        self._key = f"{prefix}:{{metrics}}"
        self._sources: dict[str, Callable[[], float]] = {"talkmeter_cpu_seconds_total": time.process_time}
        self._set: dict[str, float] = {}
        self._labelled: dict[str, Callable[[], Mapping[str, float]]] = {}

    def source(self, name: str, read: Callable[[], float]) -> None:
        """Read a figure when it is asked for. Raises KeyError for a name without help text."""
        HELP[name]
        self._sources[name] = read

    def by_label(self, name: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Read a figure's parts when they are asked for. Raises KeyError for a name without help text or label."""
        HELP[name], LABELS[name]
        self._labelled[name] = read

    def set(self, name: str, value: float) -> None:
        """Keep a figure. Raises KeyError for a name without help text."""
        HELP[name]
        self._set[name] = value

    def add(self, name: str, more: float) -> None:
        """Count. Raises KeyError for a name without help text."""
        self.set(name, self._set.get(name, 0.0) + more)

    async def run(self) -> None:
        """Tell the others, until cancelled."""
        while True:
            with contextlib.suppress(redis.exceptions.RedisError, OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await self._client.hset(self._key, self._node, msgspec.json.encode(self._told()))
                    await self._client.expire(self._key, KEY_TTL_S)
            await asyncio.sleep(TELL_EVERY_S)

    async def page(self) -> bytes:
        """Return the figures of all processes in Prometheus' text form."""
        registry = CollectorRegistry()
        registry.register(_Page(await self._all()))
        return generate_latest(registry)

    def _told(self) -> Told:
        values = {name: float(read()) for name, read in self._sources.items()}
        labelled = {name: dict(read()) for name, read in self._labelled.items()}
        return Told(time.time_ns() // 1_000_000, values | self._set, labelled)

    async def _all(self) -> dict[str, Told]:
        found: dict[str, Told] = {}
        with contextlib.suppress(redis.exceptions.RedisError, OSError, TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                for node, text in (await self._client.hgetall(self._key)).items():
                    told = msgspec.json.decode(text, type=Told)
                    if told.ts_ms > time.time_ns() // 1_000_000 - FRESH_MS:
                        found[node.decode()] = told
        found[self._node] = self._told()
        return found


class _Page:
    """A collector over what was told."""

    def __init__(self, told: Mapping[str, Told]) -> None:
        self._told = told

    def collect(self) -> list[CounterMetricFamily | GaugeMetricFamily]:
        families = []
        for name, text in HELP.items():
            label = LABELS.get(name)
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = kind(name, text, labels=["node", label] if label else ["node"])
            for node, told in sorted(self._told.items()):
                for part, value in sorted(told.labelled.get(name, {}).items()):
                    family.add_metric([node, part], value)
                if name in told.values:
                    family.add_metric([node], told.values[name])
            families.append(family)
        return families
