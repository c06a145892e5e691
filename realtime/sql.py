"""Named SQL statements from a part's `.sql` file. Owns the file form; imports nothing of the project.

A statement begins at a line `-- name: the_name`; the comment lines that follow say what goes in and what comes out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)\s*$", re.MULTILINE)


def load_sql(path: Path) -> Mapping[str, str]:
    """Return the statements of one file by name; call it from a constructor, not at import.

    Raises:
        ValueError: a name comes twice, or the file names nothing.
    """
    parts = _NAME.split(path.read_text())
    names, bodies = parts[1::2], parts[2::2]
    statements = {name: body.strip() for name, body in zip(names, bodies, strict=True)}
    if not statements or len(statements) != len(names):
        raise ValueError(f"{path} must name each of its statements, once")
    return statements
