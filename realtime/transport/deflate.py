"""permessage-deflate (RFC 7692) without context takeover in either direction. Imports frames only.

Each message is compressed by itself, so an idle socket keeps no window (they cost 50 to 120 KB each), and a frame
compressed once can be shared by all sockets that agreed to the same window.
"""

from __future__ import annotations

import zlib

from . import frames
from .frames import CLOSE, FrameError, frame, payload_of

TAIL = b"\x00\x00\xff\xff"  # cut from every message by the sender (RFC 7692, section 7.2.1)
COMPRESS_BYTES_MIN = 256  # below this the gain is a few bytes and the cost some 20 microseconds
LEVEL = 1  # the messages are small JSON: higher levels cost twice the time and gain nothing


class Deflate:
    """What two peers agreed on. Stateless but for a memo, so one instance serves every socket with the same windows."""

    __slots__ = ("_frame", "_in_bits", "_out_bits", "_reframed")

    def __init__(self, *, in_bits: int, out_bits: int) -> None:
        self._in_bits = -in_bits
        self._out_bits = -out_bits
        self._frame = b""
        self._reframed = b""

    def reframe(self, plain: bytes) -> bytes:
        """Return the compressed twin of a frame; control frames and small ones as they are.

        A fan-out asks for the same frame for every socket in turn, so the last answer is remembered.
        """
        if len(plain) < COMPRESS_BYTES_MIN or plain[0] & CLOSE:
            return plain
        if plain is not self._frame:
            encoder = zlib.compressobj(LEVEL, wbits=self._out_bits)
            data = encoder.compress(payload_of(plain)) + encoder.flush(zlib.Z_SYNC_FLUSH)
            self._reframed = frame(data[: -len(TAIL)], plain[0] & 0x0F, rsv1=True)
            self._frame = plain
        return self._reframed

    def inflate(self, payload: bytes, bytes_max: int) -> bytes:
        """Return the message; at most `bytes_max` bytes are ever produced.

        Raises:
            FrameError: not deflated data, or larger than the limit.
        """
        decoder = zlib.decompressobj(self._in_bits)
        try:
            data = decoder.decompress(payload + TAIL, bytes_max + 1)
        except zlib.error:
            raise FrameError(frames.PROTOCOL_ERROR, "message does not inflate") from None
        if len(data) > bytes_max:
            raise FrameError(frames.TOO_LARGE, "message is too large")
        return data
