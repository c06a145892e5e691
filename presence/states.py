"""What a user's presence is, made of its inputs. Pure: no I/O, no clock; imports nothing of the project.

mode      sockets  busy | status    bookable when neither busy nor reserved, and
offline   any      any  | offline   never: the user is invisible
any       none     any  | offline   push reaches a device and the mode is `available`
any       some     yes  | busy      -
dnd       some     no   | dnd       never
available some     no   | online if a device is active, else away (not bookable)
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Status(StrEnum):
    """What others see."""

    ONLINE = "online"
    AWAY = "away"
    BUSY = "busy"
    DND = "dnd"
    OFFLINE = "offline"


class Mode(StrEnum):
    """What the user has chosen, for all devices, until it is changed."""

    AVAILABLE = "available"
    DND = "dnd"
    INVISIBLE = "offline"


class Inputs(Struct, frozen=True, kw_only=True):
    """Everything that presence is made of.

    Attributes:
        active_sockets: live connections whose device is not set to away.
        away_sockets: live connections whose device is.
        push_reachable: a device can be woken by a push.
        busy: in a call.
        reserved: promised to somebody, as to the head of a queue.
        mode: what the user has chosen.
    """

    active_sockets: int = 0
    away_sockets: int = 0
    push_reachable: bool = False
    busy: bool = False
    reserved: bool = False
    mode: Mode = Mode.AVAILABLE


class Standing(Struct, frozen=True):
    """How a user stands: what is shown, and whether a call may be placed."""

    status: Status
    bookable: bool


def standing(inputs: Inputs) -> Standing:
    """Return the user's standing over all devices; the table is in the module's docstring."""
    return Standing(_status(inputs), _willing(inputs) and not inputs.busy and not inputs.reserved)


def rings(inputs: Inputs) -> bool:
    """Return whether a call would ring, leaving out whether another call has the user.

    For who decides about that under the database's lock and only asks presence for the rest.
    """
    return _willing(inputs)


def _status(inputs: Inputs) -> Status:
    if inputs.mode is Mode.INVISIBLE or not (inputs.active_sockets or inputs.away_sockets):
        return Status.OFFLINE
    if inputs.busy:
        return Status.BUSY
    if inputs.mode is Mode.DND:
        return Status.DND
    return Status.ONLINE if inputs.active_sockets else Status.AWAY


def _willing(inputs: Inputs) -> bool:
    if inputs.mode is not Mode.AVAILABLE:
        return False
    if inputs.active_sockets:
        return True
    # A device that says "away" is in somebody's hands; one without a socket may be asleep and can be woken.
    return inputs.push_reachable and not inputs.away_sockets
