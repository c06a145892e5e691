"""A worker for the supervisor's tests: answers each connection with its process id. `crash` as role's answer ends it.

Run as `python -m tests.transport.worker ROLE LISTEN_FD READY_FD JOURNAL`; appends what happens to it to JOURNAL.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from types import FrameType
from typing import NoReturn


def note(journal: str, line: str) -> None:
    with open(journal, "a") as out:
        out.write(f"{line}\n")


def main() -> NoReturn:
    role, listen_fd, ready_fd, journal = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]

    def end(number: int, frame: FrameType | None) -> None:
        note(journal, f"ended {role} {os.getpid()}")
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    note(journal, f"started {role} {os.getpid()}")
    if os.environ.get("CRASH") == role:
        sys.exit(3)
    os.write(ready_fd, b"1")
    os.close(ready_fd)
    if listen_fd < 0:
        while True:
            signal.pause()
    listening = socket.socket(fileno=listen_fd)
    while True:
        conn, _ = listening.accept()
        conn.sendall(str(os.getpid()).encode())
        conn.close()


if __name__ == "__main__":
    main()
