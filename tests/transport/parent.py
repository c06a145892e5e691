"""A parent for the supervisor's tests: `python -m tests.transport.parent WORKERS JOURNAL FAIL_FILE`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from realtime.supervisor import Supervisor


def main() -> int:
    workers, journal, fail_file = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

    def command(role: str, listen_fd: int, ready_fd: int) -> Sequence[str]:
        return [sys.executable, "-m", "tests.transport.worker", role, str(listen_fd), str(ready_fd), journal]

    return Supervisor(
        workers=workers,
        host="127.0.0.1",
        port=0,
        drain_s=1.0,
        command=command,
        environ=os.environ,
        failed=lambda: "PostgreSQL" if fail_file.exists() else None,
    ).run()


if __name__ == "__main__":
    sys.exit(main())
