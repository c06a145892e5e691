"""What a finished call cost, as each side sees it: every second in a few lines. Schemas and their making only."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from billing.receipts import Pulse, Receipt, Segment
from realtime.calls.model import Call, Side


class ReceiptLine(Struct, omit_defaults=True, kw_only=True):
    """A stretch of the call. The lines follow each other without gap from the invite to the end.

    Attributes:
        kind: ringing, connecting, free, charged, paused (a side could not be heard), waived (our delay).
        pulses, coins: begun in this stretch, and what they cost before anything was given back.
    """

    kind: str
    from_ms: int
    until_ms: int
    pulses: int = 0
    coins: int = 0
    note: str = ""


class ReceiptRefund(Struct):
    """Coins that were given back, and why."""

    reason: str
    coins: int


class ReceiptView(Struct, omit_defaults=True, kw_only=True):
    """The receipt of a call that was connected.

    Attributes:
        talk_ms: from media to the end, without pauses.
        paused_ms: not charged.
        spent_coins: paid by the caller, after what was given back; the two buckets are on the caller's receipt only.
        earned_coins, fee_coins: the host's part and the platform's; on the host's receipt only.
    """

    call_id: str
    reason: str
    media: str
    price_coins: int
    pulse_ms: int
    created_ms: int
    connected_ms: int
    ended_ms: int
    talk_ms: int
    paused_ms: int
    pulses: int
    spent_coins: int
    lines: list[ReceiptLine]
    refunds: list[ReceiptRefund] = []
    paid_coins: int | None = None
    promo_coins: int | None = None
    earned_coins: int | None = None
    fee_coins: int | None = None


def receipt_view(call: Call, side: Side, receipt: Receipt) -> ReceiptView:
    """Return one side's receipt of a call that was connected."""
    caller = side is Side.CALLER
    connected_ms = receipt.started_ms or call.created_ms
    return ReceiptView(
        call_id=str(call.call_id),
        reason=call.reason.value if call.reason else "",
        media=call.media,
        price_coins=call.price_coins,
        pulse_ms=call.pulse_ms,
        created_ms=call.created_ms,
        connected_ms=connected_ms,
        ended_ms=receipt.ended_ms or connected_ms,
        talk_ms=receipt.talked_ms,
        paused_ms=receipt.time_ms("paused") + receipt.time_ms("waived"),
        pulses=len(receipt.pulses),
        spent_coins=receipt.spent_coins,
        lines=_lines(receipt.segments, receipt.pulses),
        refunds=_refunds(receipt),
        paid_coins=receipt.paid_coins if caller else None,
        promo_coins=receipt.promo_coins if caller else None,
        earned_coins=None if caller else receipt.earned_coins,
        fee_coins=None if caller else receipt.fee_coins + receipt.tax_coins,
    )


def _lines(segments: Sequence[Segment], pulses: Sequence[Pulse]) -> list[ReceiptLine]:
    """Join neighbours of one kind; a pulse that a pause cuts in two counts where it began."""
    costs = {pulse.period: pulse.coins for pulse in pulses}
    lines: list[ReceiptLine] = []
    for segment in segments:
        coins = costs.pop(segment.period, None) if segment.period is not None else None
        if not lines or (lines[-1].kind, lines[-1].note) != (segment.kind, segment.note):
            lines.append(
                ReceiptLine(kind=segment.kind, from_ms=segment.from_ms, until_ms=segment.until_ms, note=segment.note)
            )
        line = lines[-1]
        line.until_ms = segment.until_ms
        if coins is not None:
            line.pulses += 1
            line.coins += coins
    return lines


def _refunds(receipt: Receipt) -> list[ReceiptRefund]:
    coins: dict[str, int] = {}
    for refund in receipt.refunds:
        coins[refund.reason] = coins.get(refund.reason, 0) + refund.coins
    return [ReceiptRefund(reason, given_back) for reason, given_back in coins.items()]
