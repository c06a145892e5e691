"""Reads the .sql files of this package. Owns nothing else; must never import realtime or presence."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

FILES_MAX = 64  # there are about twenty; a bound all the same


@lru_cache(maxsize=FILES_MAX)
def sql(name: str) -> str:
    """Return the statement in `billing/sql/<name>.sql`."""
    return files("billing").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
