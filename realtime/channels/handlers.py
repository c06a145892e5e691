"""Operations on channels. Imports its service; never another feature."""

from __future__ import annotations

from functools import partial

from realtime.broker import Position
from realtime.channels.messages import (
    ChannelJoin,
    ChannelJoinOk,
    ChannelLeave,
    ChannelMessage,
    ChannelPresence,
    ChannelPresenceDiff,
    ChannelPresenceOk,
    ChannelPublish,
    ChannelPublishOk,
)
from realtime.channels.service import Channels, key
from realtime.dispatch import Request
from realtime.hub import Hub
from realtime.protocol.later import Later
from realtime.protocol.registry import Empty, EventType, Route

EVENTS: tuple[EventType, ...] = (
    EventType(
        name="channel.message",
        data=ChannelMessage,
        durable=False,
        logged=True,
        summary="A message in a joined channel; kept in the channel's log unless it was ephemeral.",
    ),
    EventType(
        name="channel.presence",
        data=ChannelPresenceDiff,
        durable=False,
        summary="Users came to or left a joined channel; coalesced over a fifth of a second.",
    ),
)


class ChannelHandlers:
    def __init__(self, channels: Channels, hub: Hub) -> None:
        self._channels = channels
        self._hub = hub

    def routes(self) -> list[Route]:
        return [
            Route(
                op="channel.join",
                data=ChannelJoin,
                ok=ChannelJoinOk,
                handler=self.join,
                cost=3,
                summary="Join a channel: its events follow on the stream `channel:<name>`.",
            ),
            Route(
                op="channel.leave",
                data=ChannelLeave,
                ok=Empty,
                handler=self.leave,
                summary="Leave a channel; leaving one that was not joined is no error.",
            ),
            Route(
                op="channel.publish",
                data=ChannelPublish,
                ok=ChannelPublishOk,
                handler=self.publish,
                summary="Publish to a joined channel.",
            ),
            Route(
                op="channel.presence",
                data=ChannelPresence,
                ok=ChannelPresenceOk,
                handler=self.presence,
                summary="Who is in a joined channel.",
            ),
        ]

    async def join(self, rq: Request, msg: ChannelJoin) -> ChannelJoinOk:
        conn = rq.session.conn
        position = Position(msg.position.epoch, msg.position.offset) if msg.position is not None else None
        joined = await self._channels.join(conn, rq.principal, msg.channel, position, msg.history)
        if rq.session.closed:
            self._channels.forget(conn)  # it closed meanwhile, and nobody takes it off again
        rq.session.after_reply = partial(self._hub.flow, conn, key(rq.principal, msg.channel))
        return joined

    def leave(self, rq: Request, msg: ChannelLeave) -> Empty:
        self._channels.leave(rq.session.conn, rq.principal, msg.channel)
        return Empty()

    def publish(self, rq: Request, msg: ChannelPublish) -> ChannelPublishOk | Later[ChannelPublishOk]:
        return self._channels.publish(
            rq.session.conn,
            rq.principal,
            msg.channel,
            msg.data,
            ephemeral=msg.ephemeral,
            message_id=msg.message_id,
        )

    async def presence(self, rq: Request, msg: ChannelPresence) -> ChannelPresenceOk:
        return await self._channels.presence(rq.session.conn, rq.principal, msg.channel, msg.after, msg.limit)
