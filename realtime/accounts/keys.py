"""The secrets that sign login tokens: several at a time, each under a key id, so that they can be rotated.

Owns the form of TALKMETER_JWT_SECRET and of the key file in the data folder. Imports settings' error only.
To rotate, put the new key first and keep the old one behind it until the last token that it signed has expired.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from realtime.config import SettingsError

KEY_FILE = "jwt_keys"
SECRET_BYTES_MIN = 32  # RFC 7518, section 3.2: an HS256 key is at least as long as its hash
BARE_KEY_ID = "main"  # of a secret that is given without one


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Secrets by key id; `signing_id` names the one that signs new tokens, all of them verify."""

    signing_id: str
    secrets: Mapping[str, bytes]

    @classmethod
    def parse(cls, text: str) -> KeyRing:
        """Read `id:secret,id:secret` (the first signs), or one bare secret, whose key id is `main`.

        Raises:
            SettingsError: an empty or repeated id, or a secret of less than 32 bytes.
        """
        entries = [entry.strip() for entry in text.strip().split(",")] if ":" in text else [f"{BARE_KEY_ID}:{text}"]
        ring: dict[str, bytes] = {}
        for entry in entries:
            key_id, _, secret = entry.partition(":")
            key_id, secret = key_id.strip(), secret.strip()
            if not key_id or key_id in ring:
                raise SettingsError("TALKMETER_JWT_SECRET should be `id:secret,id:secret` with different ids")
            if len(secret.encode()) < SECRET_BYTES_MIN:
                raise SettingsError(
                    f"TALKMETER_JWT_SECRET: the secret {key_id!r} must be {SECRET_BYTES_MIN} bytes or more"
                )
            ring[key_id] = secret.encode()
        return cls(next(iter(ring)), ring)


def load_keys(jwt_secret: str, data_path: Path) -> KeyRing:
    """Return the keys of the setting, or, when it is empty, those of the data folder (made at the first start)."""
    return KeyRing.parse(jwt_secret or load_secret(data_path))


def load_secret(data_path: Path) -> str:
    """Return the text of the data folder's key file; create it with a random secret, readable by its owner only.

    Several processes may do this at once: all get the same secret, and a kill leaves a whole file or none.

    Raises:
        SettingsError: others may read the file.
    """
    path = data_path / KEY_FILE
    if not path.exists():
        data_path.mkdir(parents=True, exist_ok=True)
        _create(path, f"{secrets.token_hex(4)}:{secrets.token_urlsafe(32)}\n")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise SettingsError(f"{path} can be read by others; `chmod 600` it, and better replace its secret")
    return path.read_text().strip()


def _create(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # A link fails when the name is taken, where a rename would replace the secret another process has just made.
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
