"""Who is connected where, over all nodes; crash-safe. Owns the records `<prefix>:{u:<id>}:presence`, and lists by node.

Imports batch, nodes, record and states; never `realtime`. A Redis client and callbacks are handed in.

What this node's sockets have registered is also kept in memory: after a loss of Redis all of it is written again within
seconds, and little by little it is compared anyway, which heals what a failover swallowed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

import structlog
from msgspec import Struct

from presence.batch import Batch, PresenceUnavailable, Script
from presence.nodes import HEARTBEAT_S, TTL_MS, Nodes
from presence.record import (
    AWAY,
    CONNECTION,
    REVOKED,
    Record,
    UserState,
    connection_field,
)
from presence.states import Mode

RECORD_TTL_MS: Final = 30 * 24 * 3_600_000  # how long "last seen" is remembered
REFRESH_S: Final = 60.0  # every local record is compared once in this time
RETRY_S: Final = 0.5  # after a failed heartbeat
SWEEP_LEASE_MS: Final = 10_000  # a sweep takes under a second; after this another node takes over from one that died
SWEEP_BATCH: Final = 500
WRITE_BATCH: Final = 500

log = structlog.get_logger()

Choice = Literal["online", "away", "dnd", "offline"]
Changes = Callable[[Sequence[UserState]], None]
WhoOf = Callable[[Collection[int]], Awaitable[Collection[int]]]


class Person(Struct, frozen=True, gc=False):
    """Whom a connection belongs to. `external_id` is the id that the outside knows."""

    user_id: int
    tenant_id: int
    external_id: str
    host: bool = False


class _Local(Struct, gc=False):
    """A user with sockets on this node: (connection id, device id), nearly always one, and what was chosen here."""

    person: Person
    connections: tuple[tuple[int, str], ...] = ()
    listed: str = ""  # the name under which this node has the user in its list
    mode: Mode | None = None
    away: set[str] | None = None


class Arrived(NamedTuple):
    """What a registration found.

    Attributes:
        state: of the user, with the new connection.
        twins: other live connections of the same device, on any node.
        revoked_ms: tokens issued before this instant (unix ms) are refused; 0 when nothing is known of one.
    """

    state: UserState
    twins: int
    revoked_ms: int


class Arrival:
    """A registration under way: submitted already, and to be awaited. Gives None while Redis is down."""

    __slots__ = ("_finish",)

    def __init__(self, finish: Callable[[], Awaitable[Arrived | None]]) -> None:
        self._finish = finish

    def __await__(self) -> Generator[Any, None, Arrived | None]:
        return self._finish().__await__()


class Tracker:
    """Presence of all users, seen from one node.

    Args:
        client: redis.asyncio Redis or RedisCluster; stays its maker's.
        prefix: of all keys.
        node: name of this process, unique for every start.
        on_change: called with states that differ from before, by whatever this node did.
        busy_of: which of some users are in a call, from who knows best; heals the busy mark.
        woken_of: which of them a push can wake, likewise; None where nobody knows more than this record.
        heartbeat_s, ttl_ms: how often a node is heard of, and until when it counts as alive.
    """

    def __init__(
        self,
        client: Any,
        *,
        node: str,
        prefix: str = "tm",
        on_change: Changes = lambda states: None,
        busy_of: WhoOf | None = None,
        woken_of: WhoOf | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        ttl_ms: int = TTL_MS,
    ) -> None:
        self._batch = Batch(client)
        self._prefix = prefix
        self._nodes = Nodes(self._batch, f"{prefix}:{{nodes}}:alive", node, ttl_ms=ttl_ms)
        self._change = Script("change")
        self._on_change = on_change
        self._truths: list[tuple[str, Callable[[UserState], bool], WhoOf]] = []  # mark, whether it is set, who knows
        if busy_of is not None:
            self._truths.append(("b", lambda state: state.busy, busy_of))
        if woken_of is not None:
            self._truths.append(("p", lambda state: state.push_reachable, woken_of))
        self._heartbeat_s = heartbeat_s
        self._local: dict[int, _Local] = {}
        self._leaving: set[int] = set()  # users to be taken off this node's list
        self._dirty: set[int] = set()  # users whose record may not say what this node knows
        self._slices: Iterator[list[int]] = iter(())
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Enter the list of nodes and begin to beat; works while Redis is down, and heals."""
        with contextlib.suppress(PresenceUnavailable):
            await self._nodes.join()
            await self._nodes.beat()
        self._task = asyncio.get_running_loop().create_task(self._live(), name="presence-heartbeat")

    async def close(self) -> None:
        """Leave: whoever is still connected here is offline at once, not only when the node is missed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        users = list(self._local)
        self._local.clear()
        with contextlib.suppress(PresenceUnavailable):
            await self._write(users, lambda user_id: ["cut", self._mine, "", "seen", "", ""])
            await self._batch.command("UNLINK", self._users_key(self._nodes.name))
            await self._nodes.quit(self._nodes.name)
        await self._batch.close()

    # What connections tell.

    def connected(self, person: Person, connection_id: int, device_id: str) -> Arrival:
        """Register a live connection. It is submitted at once, to share its way with what else the caller submits."""
        local = self._local.get(person.user_id)
        if local is None:
            local = self._local[person.user_id] = _Local(person)
        local.person = person
        local.connections = (*_others(local, connection_id), (connection_id, device_id))
        ((_, answer),) = self._submit([person.user_id], lambda _: [*self._registration(local), "seen", "", ""])
        return Arrival(lambda: self._arrived(person.user_id, device_id, answer))

    async def _arrived(self, user_id: int, device_id: str, answer: asyncio.Future[Any]) -> Arrived | None:
        try:
            _, before, flat = await answer
            record = Record(flat)
            state = (await self._judge([(user_id, Record(before), record)]))[user_id]
        except PresenceUnavailable:
            self._dirty.add(user_id)
            return None
        twins = record.connections_of(device_id, self._nodes.alive) - 1
        return Arrived(state, max(0, twins), record.revoked_ms)

    async def disconnected(self, user_id: int, connection_id: int) -> UserState | None:
        """Take a connection off; return the user's state, or None while Redis is down."""
        local = self._local.get(user_id)
        if local is not None:
            local.connections = _others(local, connection_id)
            if not local.connections:
                del self._local[user_id]
                self._leaving.add(user_id)
        field = connection_field(self._nodes.name, connection_id)
        try:
            return (await self._write([user_id], lambda _: ["del", field, "", "seen", "", ""]))[user_id]
        except PresenceUnavailable:
            self._dirty.add(user_id)
            return None

    async def revoke(self, user_id: int, issued_before_ms: int) -> None:
        """Let every sign-in that is under way on any node know which tokens are refused from now on.

        Raises:
            PresenceUnavailable: Redis cannot be reached.
        """
        await self._write([user_id], lambda _: ["set", REVOKED, str(issued_before_ms)])

    async def set_status(self, user_id: int, choice: Choice, *, device_id: str) -> UserState:
        """Do what the user chose: `dnd` and `offline` are for all devices, `away` for one; `online` ends all of it.

        Raises:
            PresenceUnavailable: Redis cannot be reached.
        """
        mode = {"dnd": Mode.DND, "offline": Mode.INVISIBLE}.get(choice, Mode.AVAILABLE)
        local = self._local.get(user_id)
        if local is not None:
            local.mode = mode
            away = local.away or set()
            if choice == "away":
                away.add(device_id)
            elif choice == "online":
                away.discard(device_id)
            local.away = away or None
        steps = ["set", "m", mode.value]
        if choice in ("away", "online"):
            steps += ["set" if choice == "away" else "del", AWAY + device_id, "1"]
        return (await self._write([user_id], lambda _: steps))[user_id]

    async def set_busy(self, user_ids: Sequence[int], busy: bool) -> None:
        """Mark users as in a call, or free again. Raises PresenceUnavailable."""
        await self._write(user_ids, lambda _: ["set" if busy else "del", "b", "1"])

    async def set_reserved(self, user_ids: Sequence[int], reserved: bool) -> None:
        """Mark users as promised to somebody, or free again. Raises PresenceUnavailable."""
        await self._write(user_ids, lambda _: ["set" if reserved else "del", "r", "1"])

    async def set_push_reachable(self, user_ids: Sequence[int], reachable: bool) -> None:
        """Note whether a push can wake a device of these users. Raises PresenceUnavailable."""
        await self._write(user_ids, lambda _: ["set" if reachable else "del", "p", "1"])

    async def tell_again(self, user_ids: Sequence[int]) -> None:
        """Count something outside of presence as a change, such as a host's new price. Raises PresenceUnavailable."""
        await self._write(user_ids, lambda _: ["touch", "", ""], tell_all=True)

    # What others ask.

    async def states(self, user_ids: Collection[int]) -> dict[int, UserState]:
        """Return the state of each user; one who was never here is offline.

        Raises:
            PresenceUnavailable: Redis cannot be reached.
        """
        answers = [(user_id, self._batch.command("HGETALL", self._key(user_id))) for user_id in user_ids]
        records = {user_id: Record(_flat(await answer)) for user_id, answer in answers}
        await self._look_up(records.values())
        alive = self._nodes.alive
        return {user_id: record.state(user_id, alive) for user_id, record in records.items()}

    async def online(self, user_ids: Collection[int]) -> set[int]:
        """Return those with a live socket on any node. Raises PresenceUnavailable."""
        return {user_id for user_id, state in (await self.states(user_ids)).items() if state.sockets}

    # Inside.

    @property
    def _mine(self) -> str:
        """What the fields of this node's connections begin with."""
        return f"{CONNECTION}{self._nodes.name}:"

    def _key(self, user_id: int) -> str:
        return f"{self._prefix}:{{u:{user_id}}}:presence"

    def _users_key(self, node: str) -> str:
        return f"{self._prefix}:{{n:{node}}}:users"

    def _registration(self, local: _Local) -> list[str]:
        """Return the steps that write all that this node knows of a user."""
        person = local.person
        steps = ["set", "t", str(person.tenant_id), "set", "x", person.external_id]
        steps += ["set" if person.host else "del", "h", "1"]
        for connection_id, device_id in local.connections:
            steps += ["set", connection_field(self._nodes.name, connection_id), device_id]
        return steps

    def _repair(self, user_id: int) -> list[str]:
        """Return the steps that make a record say what this node knows, and no more."""
        local = self._local.get(user_id)
        if local is not None:
            local.listed = ""  # the list may be lost as well
        return ["cut", self._mine, "", *self._known(user_id)]

    def _known(self, user_id: int) -> list[str]:
        """Return the steps that bring back what this node knows of a user, where it was lost."""
        local = self._local.get(user_id)
        if local is None:
            return []
        steps = self._registration(local)
        if local.mode is not None:
            steps += ["new", "m", local.mode.value]
        for device_id in local.away or ():
            steps += ["new", AWAY + device_id, "1"]
        return steps

    async def _write(
        self,
        user_ids: Sequence[int],
        steps: Callable[[int], list[str]],
        *,
        also_alive: str = "",
        tell_all: bool = False,
    ) -> dict[int, UserState]:
        """Change records, tell of those whose standing changed, and keep this node's list of users.

        Args:
            also_alive: a node that counted until now, so that what its end changes is seen as a change.
            tell_all: tell of every user: an earlier write may have changed the record without an answer.
        """
        changes = []
        for user_id, answer in self._submit(user_ids, steps):
            _, before, after = await answer
            changes.append((user_id, Record(before), Record(after)))
        return await self._judge(changes, also_alive=also_alive, tell_all=tell_all)

    def _submit(
        self, user_ids: Sequence[int], steps: Callable[[int], list[str]]
    ) -> list[tuple[int, asyncio.Future[Any]]]:
        """Submit changes of records, and of this node's list of users."""
        answers = []
        node = self._nodes.name
        for user_id in user_ids:
            local = self._local.get(user_id)
            if local is not None and local.listed != node:  # before the record: who is in no list is never swept
                local.listed = node
                self._batch.command("SADD", self._users_key(node), user_id)
            answers.append(
                (user_id, self._batch.run(self._change, (self._key(user_id),), RECORD_TTL_MS, *steps(user_id)))
            )
            if local is None and user_id in self._leaving:
                self._leaving.discard(user_id)
                self._batch.command("SREM", self._users_key(node), user_id)
        return answers

    async def _judge(
        self, changes: Sequence[tuple[int, Record, Record]], *, also_alive: str = "", tell_all: bool = False
    ) -> dict[int, UserState]:
        """Tell of users whose standing differs between the record before and after, and return the states."""
        await self._look_up([after for _, _, after in changes])
        alive = self._nodes.alive
        before_alive = alive | {also_alive} if also_alive else alive
        found, changed = {}, []
        for user_id, before, after in changes:
            now = found[user_id] = after.state(user_id, alive)
            if tell_all or before.standing(before_alive) != now.standing or before.host != now.host:
                changed.append(now)
        if changed:
            self._on_change(changed)
        return found

    async def _look_up(self, records: Iterable[Record]) -> None:
        await self._nodes.look_up({node for record in records for node, _ in record.connections})

    # Upkeep.

    async def _live(self) -> None:
        while True:
            try:
                await self._beat()
                pause = self._heartbeat_s
            except PresenceUnavailable:
                self._dirty.update(self._local)  # Redis may come back without anything
                pause = RETRY_S
            except Exception:  # a heartbeat that ends takes the whole node offline: rather beat on and be told of it
                log.exception("presence_heartbeat_failed")
                pause = RETRY_S
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))

    async def _beat(self) -> None:
        beat = await self._nodes.beat()
        if not beat.known:
            await self._nodes.join()
            self._dirty.update(self._local)
        await self._flush_dirty()
        await self._refresh()
        for node, heard_ms in beat.dead.items():
            await self._sweep(node, heard_ms)

    async def _flush_dirty(self) -> None:
        while self._dirty:
            users = [self._dirty.pop() for _ in range(min(WRITE_BATCH, len(self._dirty)))]
            try:
                await self._write(users, self._repair, tell_all=True)
                await self._correct_marks(users)
            except PresenceUnavailable:
                self._dirty.update(users)
                raise

    async def _refresh(self) -> None:
        """Compare the next slice of local records with what this node knows, and their marks with who knows best."""
        users = next(self._slices, None)
        if users is None:
            everybody = list(self._local)
            size = max(1, int(len(everybody) * self._heartbeat_s / REFRESH_S) + 1)
            self._slices = iter([everybody[start : start + size] for start in range(0, len(everybody), size)])
            users = next(self._slices, [])
        users = [user_id for user_id in users if user_id in self._local]
        await self._write(users, self._known)
        await self._correct_marks(users)

    async def _correct_marks(self, users: Sequence[int]) -> None:
        """Mend marks that do not agree with who knows best, unless the record changed while that was asked."""
        if not users or not self._truths:
            return
        states = await self.states(users)
        steps: dict[int, list[str]] = {}
        for mark, marked, who_of in self._truths:
            right = set(await who_of(users))
            for user_id, state in states.items():
                if marked(state) != (user_id in right):
                    mending = steps.setdefault(user_id, ["at", "", str(state.version)])
                    mending += ["set" if user_id in right else "del", mark, "1"]
        await self._write(list(steps), steps.__getitem__)

    async def _sweep(self, node: str, heard_ms: int) -> None:
        """Clear up after a dead node, unless another node is at it."""
        lease = f"{self._prefix}:{{n:{node}}}:sweep"
        if not await self._batch.command("SET", lease, self._nodes.name, "NX", "PX", SWEEP_LEASE_MS):
            return
        users_key = self._users_key(node)
        cut = ["cut", f"{CONNECTION}{node}:", "", "seen", "", str(heard_ms)]
        cursor: Any = 0
        while True:
            cursor, found = await self._batch.command("SSCAN", users_key, cursor, "COUNT", SWEEP_BATCH)
            await self._write([int(user_id) for user_id in found], lambda _: cut, also_alive=node)
            if int(cursor) == 0:
                break
        await self._batch.command("UNLINK", users_key)
        await self._nodes.quit(node)


def _others(local: _Local, connection_id: int) -> tuple[tuple[int, str], ...]:
    return tuple(known for known in local.connections if known[0] != connection_id)


def _flat(answer: Any) -> Sequence[bytes]:
    """HGETALL as the wire gives it, or as redis-py has made a dict of it."""
    if isinstance(answer, dict):
        return [part for pair in answer.items() for part in pair]
    return list(answer)
