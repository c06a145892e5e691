"""The meter's rules once more, in plain Python, written from the rules and not from the SQL.

State is a handful of dictionaries, time is a number, money is arithmetic. The state machine (test_histories.py) does
the same things to this and to the database and compares them after every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from billing.tariffs import Tariff

LATE_MS = 60_000
PAUSES_MAX = 3
PAUSED_MS_MAX = 60_000
HANG_UP_MS_MAX = 5_000
DAY_MS = 86_400_000


@dataclass
class Wallet:
    paid: int = 0
    promo: int = 0
    earned: int = 0
    pending: int = 0

    @property
    def coins(self) -> int:
        return self.paid + self.promo


@dataclass
class Charge:
    price: int
    promo: int
    length_ms: int
    tariff: Tariff
    back: int = 0
    back_promo: int = 0
    cut_ms: int = 0

    @property
    def used_ms(self) -> int:
        """The time that it funds: new terms cut it short."""
        return self.length_ms - self.cut_ms

    @property
    def kept(self) -> int:
        return self.price - self.back


@dataclass
class Side:
    heard_ms: int | None
    seen_ms: int | None

    def silent(self, ms: int) -> bool:
        return self.heard_ms is not None and self.seen_ms is not None and self.seen_ms - self.heard_ms > ms


@dataclass
class Meter:
    payer: int
    payee: int
    tariff: Tariff
    opened_ms: int
    state: str = "open"
    reason: str = ""
    started_ms: int = 0
    ended_ms: int = 0
    due_ms: int = 0
    since_ms: int = 0
    proof_ms: int = 0
    paused_from_ms: int = 0
    paused_ms: int = 0
    pauses: int = 0
    fee_remainder: int = 0
    tax_remainder: int = 0
    share: int = 0
    fee: int = 0
    tax: int = 0
    loss: int = 0
    told_ms: int | None = None  # the lowest threshold that the payer was told of; 0: the last warning
    warnings: list[tuple[str, int | None]] = field(default_factory=list)
    charges: list[Charge] = field(default_factory=list)
    sides: dict[str, Side] | None = None

    @property
    def spent(self) -> int:
        return sum(charge.kept for charge in self.charges)

    def heard_ms(self) -> int | None:
        """When both were last heard."""
        if self.sides is None or any(side.heard_ms is None for side in self.sides.values()):
            return None
        return min(side.heard_ms for side in self.sides.values() if side.heard_ms is not None)

    def fresh(self, now_ms: int) -> bool:
        heard_ms = self.heard_ms()
        return heard_ms is not None and heard_ms >= now_ms - self.tariff_grace_ms // 2

    @property
    def tariff_grace_ms(self) -> int:
        return self.first_tariff.grace_ms

    @property
    def first_tariff(self) -> Tariff:
        return self.charges[0].tariff if self.charges else self.tariff

    def silent_side(self, ms: int) -> str | None:
        if self.sides is None:
            return None
        silent = [name for name, side in self.sides.items() if side.silent(ms)]
        return "both" if len(silent) == 2 else silent[0] if silent else None

    def last_proof_ms(self) -> int:
        heard_ms = self.heard_ms()
        return min(self.due_ms, max(self.due_ms if heard_ms is None else heard_ms, self.since_ms))


class Model:
    """Wallets and meters of a few users."""

    def __init__(self) -> None:
        self.wallets: dict[int, Wallet] = {}
        self.meters: dict[int, Meter] = {}
        self.free_ms: dict[tuple[int, int], int] = {}
        self.short: dict[tuple[int, int], int] = {}

    # -- money ----------------------------------------------------------------------------------------------------

    def grant(self, user: int, coins: int, promo: bool, now_ms: int) -> None:
        wallet = self.wallets[user]
        wallet.promo += coins if promo else 0
        wallet.paid += 0 if promo else coins
        self._moved(user, coins, now_ms)

    def gift(self, payer: int, payee: int, coins: int, fee_bp: int, now_ms: int) -> bool:
        wallet = self.wallets[payer]
        if wallet.coins < coins:
            return False
        promo = min(wallet.promo, coins)
        wallet.promo -= promo
        wallet.paid -= coins - promo
        self.wallets[payee].earned += coins - coins * fee_bp // 10_000
        self._moved(payer, -coins, now_ms)
        return True

    def pulses_left(self, m: Meter) -> int:
        return self.wallets[m.payer].coins // m.tariff.price_coins

    def ends_ms(self, m: Meter) -> int:
        """When the money will be used up."""
        return m.due_ms + self.pulses_left(m) * m.tariff.pulse_ms

    def _moved(self, user: int, coins: int, now_ms: int) -> None:
        """Coins came to a user (negative: went) who may be in a call."""
        for m in self.meters.values():
            if m.payer == user and m.state == "running":
                before = (self.wallets[user].coins - coins) // m.tariff.price_coins
                moved = before != self.pulses_left(m)
                if coins > 0 and moved:
                    m.warnings.append(("extended", None))
                self._warn(m, now_ms, moved=moved, told=coins > 0 and moved)

    def _warn(self, m: Meter, now_ms: int, *, moved: bool = False, told: bool = False) -> None:
        """Tell the payer what he was not told yet: a threshold that was crossed, or an end that has moved."""
        left_ms = self.ends_ms(m) - now_ms
        fallen = [ms for ms in m.tariff.low_balance_ms if ms >= left_ms]
        lowest = 0 if self.pulses_left(m) == 0 else min(fallen) if fallen else None
        news = lowest is not None and (m.told_ms is None or lowest < m.told_ms or moved)
        if news and not told:
            m.warnings.append(("low_balance", lowest))
        m.told_ms = lowest

    def _split(self, m: Meter, coins: int, tariff: Tariff) -> tuple[int, int, int]:
        """Share, fee and tax of a price (negative: given back), exact over any number of divisions."""
        units = m.fee_remainder + coins * tariff.commission_bp
        gross = units // 10_000
        m.fee_remainder = units - gross * 10_000
        units = m.tax_remainder + gross * tariff.tax_bp
        tax = units // 10_000
        m.tax_remainder = units - tax * 10_000
        return coins - gross, gross - tax, tax

    def _charge(self, m: Meter, price: int, length_ms: int) -> bool:
        wallet = self.wallets[m.payer]
        if wallet.coins < price:
            return False
        promo = min(wallet.promo, price)
        wallet.promo -= promo
        wallet.paid -= price - promo
        share, fee, tax = self._split(m, price, m.tariff)
        m.share += share
        m.fee += fee
        m.tax += tax
        self.wallets[m.payee].pending += share
        m.charges.append(Charge(price, promo, length_ms, m.tariff))
        return True

    def _give_back(self, m: Meter, charge: Charge, coins: int) -> None:
        paid = min(coins, charge.price - charge.promo - (charge.back - charge.back_promo))
        charge.back += coins
        charge.back_promo += coins - paid
        wallet, host = self.wallets[m.payer], self.wallets[m.payee]
        wallet.paid += paid
        wallet.promo += coins - paid
        share, fee, tax = self._split(m, -coins, charge.tariff)
        m.fee += fee
        m.tax += tax
        if m.state == "ended":
            taken = min(host.earned, -share)
            host.earned -= taken
        else:
            taken = -share
            host.pending -= taken
        m.share -= taken
        m.loss += -share - taken

    # -- the meter's life -------------------------------------------------------------------------------------------

    def start(self, key: int, now_ms: int) -> str:
        m = self.meters[key]
        if m.state != "open":
            return m.state
        day = (m.payer, now_ms // DAY_MS)
        free_ms = m.tariff.free_ms
        if self.free_ms.get(day, 0) + free_ms > m.tariff.free_ms_per_day:
            free_ms = 0
        if not self._charge(m, m.tariff.first_coins, m.tariff.first_ms):
            m.state, m.reason, m.ended_ms = "ended", "insufficient_funds", now_ms
            return m.state
        self.free_ms[day] = self.free_ms.get(day, 0) + free_ms
        m.state, m.started_ms, m.since_ms = "running", now_ms, now_ms
        m.due_ms = now_ms + free_ms + m.tariff.first_ms
        m.sides = {"payer": Side(now_ms, now_ms), "payee": Side(now_ms, now_ms)}
        self._warn(m, now_ms)
        return m.state

    def tick(self, now_ms: int) -> None:
        for m in list(self.meters.values()):
            if m.state != "running" or m.due_ms > now_ms:
                continue
            if not m.fresh(now_ms):
                self._suspend(m, now_ms)
                continue
            late = now_ms - m.due_ms > LATE_MS
            if not self._charge(m, m.tariff.price_coins, m.tariff.pulse_ms):
                self._finish(m, m.due_ms, "exhausted", None, now_ms)
            else:
                begins_ms = now_ms if late else m.due_ms
                m.since_ms = now_ms if late else m.since_ms
                m.due_ms = begins_ms + m.tariff.pulse_ms
                if self.pulses_left(m) == 0:
                    m.told_ms = None  # every pulse that is the last one says so
                self._warn(m, begins_ms)
        for m in list(self.meters.values()):
            if m.state == "suspended":
                self._watch(m, now_ms)

    def hear(self, key: int, now_ms: int, payer_ago_ms: int | None, payee_ago_ms: int | None) -> None:
        m = self.meters[key]
        if m.state not in ("running", "suspended"):
            return
        if m.sides is None:
            m.sides = {"payer": Side(None, None), "payee": Side(None, None)}
        ages = {"payer": payer_ago_ms, "payee": payee_ago_ms}
        for name, ago_ms in ages.items():
            if ago_ms is not None:
                side = m.sides[name]
                side.heard_ms = max(side.heard_ms or 0, now_ms - ago_ms)
                side.seen_ms = max(side.seen_ms or 0, now_ms)
        half_ms = m.tariff_grace_ms // 2
        reported = any(ago_ms is not None and ago_ms > half_ms for ago_ms in ages.values())
        if m.state == "running" and reported and m.silent_side(half_ms) is not None:
            self._suspend(m, now_ms)

    def forget_evidence(self) -> None:
        """The database crashed."""
        for m in self.meters.values():
            m.sides = None

    def stop(self, key: int, now_ms: int, reason: str, ago_ms: int) -> None:
        m = self.meters[key]
        if m.state == "ended":
            return
        if m.state == "open":
            m.state, m.reason, m.ended_ms = "ended", reason, max(now_ms, m.opened_ms)
            return
        at_ms = now_ms - min(ago_ms, HANG_UP_MS_MAX)
        heard_ms = m.heard_ms()
        if m.state == "suspended":
            at_ms = min(at_ms, m.proof_ms)
        elif heard_ms is not None and not m.fresh(now_ms):
            at_ms = min(at_ms, m.last_proof_ms())
        at_ms = max(at_ms, m.started_ms)
        if m.state == "running":
            while m.due_ms < at_ms and at_ms - m.due_ms <= LATE_MS:
                if not self._charge(m, m.tariff.price_coins, m.tariff.pulse_ms):
                    self._finish(m, m.due_ms, "exhausted", None, at_ms)
                    return
                m.due_ms += m.tariff.pulse_ms
            at_ms = min(at_ms, m.due_ms)
        self._finish(m, at_ms, reason, None, now_ms)

    def rerate(self, key: int, tariff: Tariff, now_ms: int) -> str:
        m = self.meters[key]
        if m.state != "running":
            return m.state
        now_ms = max(now_ms, m.since_ms)
        while m.due_ms < now_ms and now_ms - m.due_ms <= LATE_MS:
            if not self._charge(m, m.tariff.price_coins, m.tariff.pulse_ms):
                self._finish(m, m.due_ms, "exhausted", None, now_ms)
                return "ended"
            m.due_ms += m.tariff.pulse_ms
        charge = m.charges[-1]
        unused_ms = max(m.due_ms - now_ms, 0)
        back = min(charge.kept, charge.price * min(unused_ms, charge.length_ms) // charge.length_ms)
        if self.wallets[m.payer].coins + back < tariff.price_coins:
            return "insufficient_funds"
        if back:
            self._give_back(m, charge, back)
        charge.cut_ms = min(unused_ms, charge.length_ms)
        m.tariff = tariff
        self._charge(m, tariff.price_coins, tariff.pulse_ms)
        begins_ms = now_ms + max(unused_ms - charge.length_ms, 0)
        m.due_ms = begins_ms + tariff.pulse_ms
        m.told_ms = None
        self._warn(m, begins_ms)
        return "running"

    def refund(self, key: int, period: int, coins: int, now_ms: int) -> bool:
        m = self.meters[key]
        if period > len(m.charges) or m.charges[period - 1].kept < coins:
            return False
        self._give_back(m, m.charges[period - 1], coins)
        self._moved(m.payer, coins, now_ms)
        return True

    # -- edges ------------------------------------------------------------------------------------------------------

    def _suspend(self, m: Meter, now_ms: int) -> None:
        at_ms = min(m.last_proof_ms(), now_ms)
        if m.silent_side(m.tariff_grace_ms) is not None or m.pauses >= PAUSES_MAX:
            self._finish(m, at_ms, "lost", m.silent_side(m.tariff_grace_ms // 2), now_ms)
            return
        m.state, m.proof_ms, m.paused_from_ms = "suspended", at_ms, now_ms
        m.pauses += 1

    def _watch(self, m: Meter, now_ms: int) -> None:
        gone = m.silent_side(m.tariff_grace_ms)
        if gone is None and m.fresh(now_ms):
            m.state, m.since_ms = "running", now_ms
            m.due_ms = now_ms + m.due_ms - m.proof_ms
            m.paused_ms += max(now_ms - m.paused_from_ms, 0)
            self._warn(m, now_ms, moved=True)
        elif gone is not None or m.paused_ms + now_ms - m.paused_from_ms > PAUSED_MS_MAX:
            self._finish(m, m.proof_ms, "lost", gone or m.silent_side(m.tariff_grace_ms // 2), now_ms)

    def _finish(self, m: Meter, at_ms: int, reason: str, lost: str | None, now_ms: int) -> None:
        unused_ms = m.due_ms - at_ms
        index = len(m.charges) - 1
        while index >= 0 and unused_ms >= m.charges[index].used_ms:
            if m.charges[index].kept:
                self._give_back(m, m.charges[index], m.charges[index].kept)
            unused_ms -= m.charges[index].used_ms
            index -= 1
        if index >= 0 and m.charges[index].tariff.rounding == "second" and unused_ms + m.charges[index].cut_ms > 0:
            charge = m.charges[index]
            used_s = -(-(charge.used_ms - unused_ms) // 1000)
            price = -(-charge.price * min(used_s * 1000, charge.length_ms) // charge.length_ms)
            back = min(charge.kept - price, m.spent - charge.tariff.minimum_coins)
            if back > 0:
                self._give_back(m, charge, back)
        self._waive(m, at_ms, reason, lost, index, now_ms)
        host = self.wallets[m.payee]
        host.pending -= m.share
        host.earned += m.share
        m.state, m.reason, m.ended_ms, m.sides = "ended", reason, at_ms, None

    def _waive(self, m: Meter, at_ms: int, reason: str, lost: str | None, index: int, now_ms: int) -> None:
        tariff, day = m.tariff, (m.payer, now_ms // DAY_MS)
        if reason == "silent_host" and tariff.waive_silent_host:
            waived = m.charges
        elif (
            at_ms - m.started_ms < tariff.short_call_ms
            and m.spent > 0
            and self.short.get(day, 0) < tariff.short_waivers_per_day
        ):
            self.short[day] = self.short.get(day, 0) + 1
            waived = m.charges
        elif lost == "payee" and tariff.waive_host_dropped:
            waived = m.charges[max(index, 0) :]
        else:
            return
        for charge in waived:
            if charge.kept:
                self._give_back(m, charge, charge.kept)
