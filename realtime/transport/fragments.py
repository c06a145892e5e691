"""A message that comes in several frames. Exists only while it does. Imports frames only."""

from __future__ import annotations

from . import frames
from .frames import RSV1, TEXT, FrameError


class Fragments:
    """Joins the frames of one message.

    Attributes:
        head: first byte of the message's first frame: its kind, and whether it is compressed.
    """

    __slots__ = ("_checked", "_joined", "head")

    def __init__(self, head: int) -> None:
        self.head = head
        self._joined = bytearray()
        self._checked = 0  # bytes that are known to be whole characters

    def add(self, payload: bytes, bytes_max: int) -> None:
        """Take the next part.

        Raises:
            FrameError: the message grows beyond `bytes_max`, or its text cannot become UTF-8 any more.
        """
        if len(self._joined) + len(payload) > bytes_max:
            raise FrameError(frames.TOO_LARGE, "message is too large")
        self._joined += payload
        if self.head & (RSV1 | 0x0F) == TEXT:
            self._checked += frames.valid_text_bytes(self._joined[self._checked :])

    def message(self) -> bytes:
        """Return what has been joined."""
        return bytes(self._joined)
