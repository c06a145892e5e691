"""`python -m tests.crash --rounds 30 [--seed N]`: crash the ledger that often and compare it with what was told."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.rounds import BooksWrong, play


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=(__doc__ or "").strip())
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(2**31) if options.seed is None else options.seed
    folder = Path(tempfile.mkdtemp(prefix="tm-crash-"))
    folder.chmod(0o755)
    began = time.monotonic()
    try:
        counts = play(folder, options.rounds, seed=seed)
    except BooksWrong as exc:
        print(f"FAILED: {exc}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    took = {"rounds": options.rounds, "seed": seed, "seconds": round(time.monotonic() - began)}
    print(json.dumps({**took, **counts, "audit": "clean"}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
