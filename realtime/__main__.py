"""The `talkmeter` command. Owns nothing but the way in."""

from __future__ import annotations

from realtime.cli import run


def main() -> None:
    run()


if __name__ == "__main__":
    main()
