"""Frames of RFC 6455: building what is sent, judging what is received. Pure; imports nothing of the project."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

try:
    from websockets.speedups import apply_mask as apply_mask
except ImportError:  # a platform without the compiled wheel
    from websockets.utils import apply_mask as apply_mask

CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

FIN = 0x80
RSV1 = 0x40
CONTROL_BYTES_MAX = 125  # RFC 6455, section 5.5
REASON_BYTES_MAX = CONTROL_BYTES_MAX - 2
SHORT_BYTES_MAX = 125
MEDIUM_BYTES_MAX = 0xFFFF

NO_STATUS = 1005  # RFC 6455, section 7.4.1: never on the wire, only told to the handler
ABNORMAL = 1006
PROTOCOL_ERROR = 1002
INVALID_TEXT = 1007
TOO_LARGE = 4507  # our own, because clients must not come back with the same message (protocol/close_codes.py)

_medium: Callable[[int, int, int], bytes] = Struct("!BBH").pack
_long: Callable[[int, int, int], bytes] = Struct("!BBQ").pack


class FrameError(Exception):
    """The peer broke the protocol; `code` is the close code that says how."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def frame(payload: bytes, opcode: int = TEXT, *, rsv1: bool = False) -> bytes:
    """Return one whole, final, unmasked frame: what a server sends. Share it between sockets instead of remaking it.

    Args:
        payload: the message; already deflated when `rsv1` is set (RFC 7692, section 6).
        opcode: TEXT, BINARY or a control opcode.
    """
    head = FIN | RSV1 | opcode if rsv1 else FIN | opcode
    size = len(payload)
    if size <= SHORT_BYTES_MAX:
        return bytes((head, size)) + payload
    if size <= MEDIUM_BYTES_MAX:
        return _medium(head, 126, size) + payload
    return _long(head, 127, size) + payload


def payload_of(whole: bytes) -> bytes:
    """Return the payload of a frame that `frame` made."""
    length = whole[1]
    return whole[2 if length <= SHORT_BYTES_MAX else 4 if length == 126 else 10 :]


PING_FRAME = frame(b"", PING)


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame; the reason is cut to what a control frame holds, at a character's end."""
    if code == NO_STATUS:
        return frame(b"", CLOSE)
    text = reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore").encode()
    return frame(code.to_bytes(2) + text, CLOSE)


def parse_close(payload: bytes) -> int:
    """Return the code of a received close frame, NO_STATUS when it is empty.

    Raises:
        FrameError: half a code, a code that must not be on the wire, or a reason that is not UTF-8
            (RFC 6455, sections 5.5.1 and 7.4).
    """
    if not payload:
        return NO_STATUS
    if len(payload) == 1:
        raise FrameError(PROTOCOL_ERROR, "close frame with half a code")
    code = payload[0] << 8 | payload[1]
    if not _may_be_received(code):
        raise FrameError(PROTOCOL_ERROR, "close code is not for the wire")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise FrameError(INVALID_TEXT, "close reason is not UTF-8") from None
    return code


def check_head(head: int, length: int, *, compressed: bool) -> None:
    """Judge the first byte of a received frame and its length field (RFC 6455, section 5.2).

    Args:
        compressed: permessage-deflate was agreed, so the first frame of a message may carry RSV1.

    Raises:
        FrameError: reserved bits or opcodes, or a control frame that is long or in parts.
    """
    opcode = head & 0x0F
    reserved = head & 0x70
    if reserved and not (compressed and reserved == RSV1 and opcode in (TEXT, BINARY)):
        raise FrameError(PROTOCOL_ERROR, "reserved bit set")
    if opcode > PONG or BINARY < opcode < CLOSE:
        raise FrameError(PROTOCOL_ERROR, "reserved opcode")
    if opcode >= CLOSE and (length > CONTROL_BYTES_MAX or not head & FIN):
        raise FrameError(PROTOCOL_ERROR, "control frame is long or in parts")


def check_text(payload: bytes) -> None:
    """Raise FrameError unless the payload is UTF-8."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise FrameError(INVALID_TEXT, "text is not UTF-8") from None


def valid_text_bytes(payload: bytearray) -> int:
    """Return how many bytes of text in parts are whole characters.

    Raises:
        FrameError: whatever follows, this cannot become UTF-8 any more.
    """
    try:
        payload.decode()
    except UnicodeDecodeError as exc:
        if exc.reason != "unexpected end of data":
            raise FrameError(INVALID_TEXT, "text is not UTF-8") from None
        return exc.start
    return len(payload)


def _may_be_received(code: int) -> bool:
    # 1012 to 1014 are in the registry of RFC 6455, section 11.7; 1004 to 1006 and 1015 must never be sent.
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
