"""A small real cluster: three masters, their slots shared evenly, on ports of a test's own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import redis

from tests.broker.support import WAIT_S, Valkey, free_ports

SLOTS: Final = 16384


class Cluster:
    """Three masters without replicas."""

    def __init__(self, folder: Path, masters: int = 3) -> None:
        self.nodes = []
        for port in free_ports(masters):
            home = folder / str(port)
            home.mkdir()
            arguments = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            self.nodes.append(Valkey(home, *arguments, "--cluster-require-full-coverage", "no", port=port))

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> Cluster:
        try:
            self._form()
        except BaseException:
            self.stop()
            raise
        return self

    def _form(self) -> None:
        share = SLOTS // len(self.nodes) + 1
        for index, node in enumerate(self.nodes):
            node.start()
            first, last = index * share, min(SLOTS, (index + 1) * share) - 1
            self.ask(node, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            self.ask(node, "CLUSTER", "MEET", "127.0.0.1", str(self.nodes[0].port))
        deadline = time.monotonic() + WAIT_S
        while not all(self._whole(node) for node in self.nodes):
            assert time.monotonic() < deadline, "the cluster did not form"
            time.sleep(0.05)

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()

    def ask(self, node: Valkey, *command: str) -> str:
        with redis.Redis(port=node.port, decode_responses=True) as client:
            return str(client.execute_command(*command))

    def node_id(self, node: Valkey) -> str:
        return self.ask(node, "CLUSTER", "MYID")

    def move_slot(self, slot: int, source: Valkey, target: Valkey) -> None:
        """Give a slot and its keys to another master, as resharding does."""
        self.ask(target, "CLUSTER", "SETSLOT", str(slot), "IMPORTING", self.node_id(source))
        self.ask(source, "CLUSTER", "SETSLOT", str(slot), "MIGRATING", self.node_id(target))
        with redis.Redis(port=source.port) as client:
            while found := client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *found)
        for node in (target, source, *self.nodes):
            self.ask(node, "CLUSTER", "SETSLOT", str(slot), "NODE", self.node_id(target))

    def _whole(self, node: Valkey) -> bool:
        info = self.ask(node, "CLUSTER", "INFO")
        return all(word in info for word in ("cluster_state:ok", f"cluster_slots_ok:{SLOTS}"))
