"""One way to talk to Redis, whether it is one server, a master that Sentinel names, or a cluster.

Owns the command client and finding out which server holds a channel. Must never import the hub or a feature.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection as TcpConnection
from redis.asyncio.connection import ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from realtime.broker.address import Address, RedisUrl, read_url
from realtime.broker.wire import TIMEOUT_S, Answered, Command, Wire
from realtime.protocol.errors import Unavailable

CONNECT_TIMEOUT_S: Final = 2.0
POOL_MAX: Final = 64
# One retry on a fresh connection: pooled ones are dead after a restart. Every script of ours may run twice. Not after a
# timeout: whoever waits has waited long enough.
RETRIES: Final = 1

# redis-py's types are unions of its synchronous and asynchronous twins; nothing is gained by naming them.
Client = Any


class Backend:
    """The Redis of this process. Making it opens no connection, so it can be made while Redis is down."""

    __slots__ = ("_cluster", "_opening", "_sentinel", "_wire", "client", "url")

    def __init__(self, url: str) -> None:
        """Raises BadRedisUrl (a ValueError) when `url` cannot be read."""
        self.url: RedisUrl = read_url(url)
        self._sentinel: Sentinel | None = None
        self._cluster: RedisCluster | None = None
        self._wire: Wire | None = None
        self._opening = asyncio.Lock()
        match self.url.kind:
            case "single":
                self.client: Client = _single(self.url)
            case "sentinel":
                self._sentinel = _sentinel(self.url)
                self.client = self._sentinel.master_for(self.url.service, **_options(self.url))
            case "cluster":
                self._cluster = self.client = _cluster(self.url)

    @property
    def sharded(self) -> bool:
        """Whether channels live on the node of their slot (a cluster)."""
        return self._cluster is not None

    async def servers(self, channels: Sequence[str]) -> dict[Address, list[str]]:
        """Say at which server each channel's subscribers belong.

        Raises:
            Unavailable: neither sentinels nor cluster nodes answer.
        """
        if self._cluster is not None:
            return await self._cluster_servers(channels)
        return {await self._master(): list(channels)}

    async def refresh(self) -> None:
        """Forget what is known of the cluster's layout, so that the next look asks for it."""
        if self._cluster is not None:
            try:
                await self._cluster.nodes_manager.initialize()
            except (RedisError, OSError) as exc:
                raise Unavailable(f"the cluster does not answer: {exc}") from exc

    async def server_names(self, keys: Sequence[str]) -> list[str]:
        """Return a name for the server that holds each key: scripts are loaded per server.

        Raises:
            redis.exceptions.RedisError: no node of the cluster answers.
        """
        if self._cluster is None:
            return [""] * len(keys)
        await self._cluster.initialize()
        return [self._node_name(key) for key in keys]

    def _node_name(self, key: str) -> str:
        assert self._cluster is not None
        node = self._cluster.nodes_manager.get_node_from_slot(key_slot(key.encode()))
        return str(node.name)

    async def execute(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands in one go; refusals are exceptions among the replies.

        Raises:
            OSError, redis.exceptions.RedisError: Redis cannot be reached; the commands may have run or not.
        """
        if self._cluster is not None:
            pipe = self._cluster.pipeline()
            for command in commands:
                pipe.execute_command(*command)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
            return replies
        wire = self._wire
        if wire is None or wire.closed:
            wire = await self._opened()
        return await wire.run(commands)

    def send(self, commands: Sequence[Command], answered: Answered) -> bool:
        """Run commands in one go if that takes no waiting; False when there is no connection that stands (`execute`).

        On a cluster that is never so.
        """
        wire = self._wire
        if wire is None or wire.closed:
            return False
        wire.send(commands, answered)
        return True

    async def ask(self, server: str, *command: str) -> Any:
        """Run one command on the named server.

        Raises:
            OSError, redis.exceptions.RedisError: it cannot be reached, or refuses.
        """
        if self._cluster is None:
            (reply,) = await self.execute([command])
            if isinstance(reply, Exception):
                raise RedisError(str(reply))
            return reply
        node = self._cluster.get_node(node_name=server)
        return await self._cluster.execute_command(*command, target_nodes=node)

    async def close(self) -> None:
        if self._wire is not None:
            self._wire.abort()
        await self.client.aclose()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()

    async def _opened(self) -> Wire:
        async with self._opening:  # several callers need it at once, and share it
            wire = self._wire
            if wire is None or wire.closed:
                wire = self._wire = await self._open_wire()
            return wire

    async def _open_wire(self) -> Wire:
        url = self.url
        return await Wire.open(
            await self._master(), username=url.username, password=url.password, db=url.db, tls=url.tls,
            timeout_s=CONNECT_TIMEOUT_S,
        )  # fmt: skip

    async def _master(self) -> Address:
        if self._sentinel is None:
            return self.url.addresses[0]
        try:
            host, port = await self._sentinel.discover_master(self.url.service)
        except (RedisError, OSError) as exc:
            raise Unavailable(f"no sentinel names a master for {self.url.service}: {exc}") from exc
        return Address(str(host), int(port))

    async def _cluster_servers(self, channels: Sequence[str]) -> dict[Address, list[str]]:
        assert self._cluster is not None
        try:
            await self._cluster.initialize()
            found: dict[Address, list[str]] = {}
            for channel in channels:
                node = self._cluster.nodes_manager.get_node_from_slot(key_slot(channel.encode()))
                found.setdefault(Address(str(node.host), int(node.port)), []).append(channel)
        except (RedisError, OSError) as exc:
            raise Unavailable(f"the cluster does not answer: {exc}") from exc
        return found


def _options(url: RedisUrl) -> dict[str, Any]:
    return {
        **url.options,
        "username": url.username or None,
        "password": url.password or None,
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "retry": Retry(NoBackoff(), RETRIES, supported_errors=(RedisConnectionError,)),
        "protocol": 2,
        **({} if url.kind == "cluster" else {"db": url.db}),
    }


def _single(url: RedisUrl) -> Redis:
    address = url.addresses[0]
    where: dict[str, Any] = {"path": address.path} if address.path else {"host": address.host, "port": address.port}
    kind = UnixDomainSocketConnection if address.path else SSLConnection if url.tls else TcpConnection
    return Redis.from_pool(ConnectionPool(connection_class=kind, max_connections=POOL_MAX, **where, **_options(url)))


def _sentinel(url: RedisUrl) -> Sentinel:
    options = _options(url) | {"username": url.sentinel_username or None, "password": url.sentinel_password or None}
    options |= {"db": 0, "ssl": url.tls is not None}
    return Sentinel(  # type: ignore[no-untyped-call]
        [(a.host, a.port) for a in url.addresses], sentinel_kwargs=options, ssl=url.tls is not None
    )


def _cluster(url: RedisUrl) -> RedisCluster:
    nodes = [ClusterNode(address.host, address.port) for address in url.addresses]
    return RedisCluster(startup_nodes=nodes, ssl=url.tls is not None, max_connections=POOL_MAX, **_options(url))
