"""A caller and a host who play their parts of a call, as an app would."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

from realtime.client import Client, ClientClosed, Event
from tests.integration.documented import check_event, check_reply

EVENT_TIMEOUT_S = 20.0
PROOF_EVERY_S = 1.0


@dataclass
class Player:
    """A user on one device, and everything that they were told, in order."""

    client: Client
    seen: list[Event] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _proofs: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.client.on("*", self._note)

    def _note(self, event: Event) -> None:
        if not event.name.startswith("client."):
            check_event(event.name, event.data)
        self.seen.append(event)
        self._changed.set()

    def names(self) -> list[str]:
        return [event.name for event in self.seen]

    async def wait_for(self, name: str, *, count: int = 1, call_id: str = "") -> Event:
        """Return the `count`th event of that name (and of that call, when one is given), when it has come."""
        async with asyncio.timeout(EVENT_TIMEOUT_S):
            while True:
                found = [event for event in self.seen if event.name == name and call_id in ("", _call_of(event))]
                if len(found) >= count:
                    return found[count - 1]
                self._changed.clear()
                await self._changed.wait()

    async def ask(self, op: str, **data: Any) -> Any:
        answer = await self.client.request(op, data)
        check_reply(op, answer)
        return answer

    def prove_media(self, call_id: str) -> None:
        """Say that media flows, now and again every second, as long as the call lasts and the client is open."""
        self._proofs = asyncio.get_running_loop().create_task(self._prove(call_id))

    async def stop_proving(self) -> None:
        if self._proofs is not None:
            self._proofs.cancel()
            await asyncio.gather(self._proofs, return_exceptions=True)
            self._proofs = None

    async def _prove(self, call_id: str) -> None:
        with contextlib.suppress(ClientClosed):
            while True:
                answer = await self.ask("call.media", call_id=call_id, state="connected")
                if answer["call"]["state"] == "ended":
                    return
                await asyncio.sleep(PROOF_EVERY_S)


def _call_of(event: Event) -> str | None:
    call_id: str | None = event.data.get("call", {}).get("call_id")
    return call_id


async def talk(caller: Player, host: Player, host_id: str, *, media: str = "voice") -> str:
    """Ring, answer, and bring both sides' media up; return the call's id once it is connected."""
    invited = await caller.ask("call.invite", host=host_id, media=media)
    call_id: str = invited["call"]["call_id"]
    await host.wait_for("call.incoming", call_id=call_id)
    await caller.wait_for("call.ringing", call_id=call_id)
    await host.ask("call.accept", call_id=call_id)
    await caller.wait_for("call.accepted", call_id=call_id)
    caller.prove_media(call_id)
    host.prove_media(call_id)
    await caller.wait_for("call.connected", call_id=call_id)
    return call_id
