"""A worker for the supervisor's tests: answers each connection with its process id.

Run as `python -m tests.transport.worker ROLE LISTEN_FD READY_FD JOURNAL`; appends what happens to it to JOURNAL.
The role that CRASH names ends at once; so does every role while there is a file `crash` beside JOURNAL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType


def note(journal: str, line: str) -> None:
    with open(journal, "a") as out:
        out.write(f"{line}\n")


def main() -> None:
    role, listen_fd, ready_fd, journal = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    stopping: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.append(number)

    signal.signal(signal.SIGTERM, stop)
    note(journal, f"started {role} {os.getpid()}")
    if os.environ.get("CRASH") == role or Path(journal).with_name("crash").exists():
        sys.exit(3)
    os.write(ready_fd, b"1")
    os.close(ready_fd)
    listening = socket.socket(fileno=listen_fd) if listen_fd >= 0 else socket.socket()
    listening.settimeout(0.02)
    while not stopping:
        if listen_fd < 0:
            signal.sigtimedwait([], 0.02)
            continue
        with contextlib.suppress(TimeoutError):
            conn, _ = listening.accept()
            conn.sendall(str(os.getpid()).encode())
            conn.close()
    note(journal, f"ended {role} {os.getpid()}")


if __name__ == "__main__":
    main()
