"""A push as it goes to one device, whatever service carries it. Pure; imports the kinds only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from realtime.push.kinds import KINDS

_ARG = re.compile(r"\{(\w+)\}")
SHOWN_CHARS_MAX = 200  # of title and body each; FCM takes 4,096 bytes in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One push for one device.

    Attributes:
        address_kind, address: where to, as `devices` has it.
        data: texts for the app; always push_id, kind, sent_ms and expires_ms.
        title, body: what is shown; empty when nothing is.
        silent: wakes the app without showing anything.
        app_rings: Android shows nothing by itself.
        urgent: wakes the phone.
        ttl_ms: how long the service may keep it, more than 0.
        expires_ms: the same as a point in time, unix ms.
        collapse_key: of several waiting with the same key, the phone gets the last.
        tag: of several shown with the same tag, the last stays.
    """

    address_kind: str
    address: str
    data: Mapping[str, str]
    title: str
    body: str
    silent: bool
    app_rings: bool
    urgent: bool
    ttl_ms: int
    expires_ms: int
    collapse_key: str
    tag: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one notice.

    Attributes:
        state: sent (the service took it), dead (the address is no more), refused (will never be taken), retry.
        service_id: the service's own id of it, when sent.
        error: why not, for the ledger.
        retry_after_ms: how long the service wants to be left alone.
    """

    state: Literal["sent", "dead", "refused", "retry"]
    service_id: str = ""
    error: str = ""
    retry_after_ms: int = 0


class Sender(Protocol):
    """Carries notices to a push service."""

    async def send(self, notices: Sequence[Notice]) -> list[Outcome]:
        """Send all, each with its own outcome in the same place; raises nothing but cancellation."""
        ...


def compose(
    *,
    push_id: str,
    kind: str,
    args: Mapping[str, str],
    address_kind: str,
    address: str,
    expires_ms: int,
    now_ms: int,
) -> Notice:
    """Return the notice for one device from the kind's record and the push's args."""
    record = KINDS[kind]
    data = {**args, "push_id": push_id, "kind": kind, "sent_ms": str(now_ms), "expires_ms": str(expires_ms)}
    return Notice(
        address_kind=address_kind,
        address=address,
        data=data,
        title=_filled(record.title, args),
        body=_filled(record.body, args),
        silent=record.silent,
        app_rings=record.app_rings,
        urgent=record.urgent,
        # FCM drops a push of ttl 0 for a phone that it does not reach at this very moment.
        ttl_ms=max(1_000, expires_ms - now_ms),
        expires_ms=expires_ms,
        collapse_key=record.category,
        tag=_filled(record.tag, args),
    )


def _filled(template: str, args: Mapping[str, str]) -> str:
    # In one pass and not by str.format: what a user wrote may hold braces, and is never a template itself.
    return _ARG.sub(lambda match: args.get(match[1], ""), template)[:SHOWN_CHARS_MAX]
