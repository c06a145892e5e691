"""Random histories, done to the database and to the plain model; after every step both must say the same.

TALKMETER_HISTORIES sets how many (60 when not set: a quarter of a minute); TALKMETER_SHRINK=0 leaves a failing one as
it was found.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Awaitable
from typing import Any, TypeVar
from uuid import UUID, uuid4

import asyncpg
import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from billing import gifts, ledger, metering, staff, wallets
from billing.audit import audit
from billing.errors import BillingError, InsufficientFunds
from billing.metering import MeterEvent, Proof
from billing.tariffs import Tariff
from tests.billing.model import Meter, Model, Wallet

T = TypeVar("T")
HISTORIES = int(os.environ.get("TALKMETER_HISTORIES", "60"))
PHASES = [phase for phase in Phase if phase is not Phase.shrink or os.environ.get("TALKMETER_SHRINK") != "0"]
STEPS = 40
TARIFFS = (
    Tariff(price_coins=10, commission_bp=3000, tax_bp=1800, low_balance_ms=(300_000, 170_000, 61_000)),
    Tariff(price_coins=7, commission_bp=1234, tax_bp=999, grace_ms=30_000),
    Tariff(price_coins=60, rounding="second", commission_bp=2500, minimum_coins=15),
    Tariff(price_coins=3, pulse_ms=1_000, commission_bp=5000, low_balance_ms=(20_000, 10_000, 5_000, 2_000)),
    Tariff(price_coins=5, pulse_ms=7_000, minimum_coins=12, waive_host_dropped=False, low_balance_ms=(30_000, 7_000)),
    Tariff(price_coins=20, free_ms=15_000, free_ms_per_day=30_000, commission_bp=9_999),
    Tariff(price_coins=9, short_call_ms=20_000, short_waivers_per_day=1, rounding="second"),
    Tariff(price_coins=1, pulse_ms=120_000, commission_bp=10_000, tax_bp=10_000, low_balance_ms=()),
)
STRIDES_MS = st.sampled_from(
    [1, 999, 1_000, 1_001, 2_500, 5_000, 9_999, 10_000, 10_001, 20_001, 30_000, 59_999, 60_000, 60_001, 61_001, 125_000]
)
AGES_MS = st.sampled_from([None, 0, 0, 0, 400, 4_000, 10_001, 15_001, 20_001, 31_000])
PAYERS, HOSTS = 3, 2
STATE_SQL = """
select meter_id, state::text as state, coalesce(reason, '') as reason, period, due_ms, ended_ms,
       spent_paid + spent_promo as spent, share, fee, tax, loss
from billing.meters where meter_id = any ($1)
"""


class Books:
    """The database side: a loop to run coroutines in, two connections, fresh user ids for every history."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.conn: asyncpg.Connection = self.run(asyncpg.connect(url, server_settings={"role": "talkmeter_app"}))
        self.owner: asyncpg.Connection = self.run(asyncpg.connect(url))
        self.users = itertools.count(1)

    def run(self, work: Awaitable[T]) -> T:
        async def await_it() -> T:
            return await work

        return self.runner.run(await_it())

    def close(self) -> None:
        self.run(self.conn.close())
        self.run(self.owner.close())
        self.runner.close()


class Histories(RuleBasedStateMachine):
    """One history: users who call, pay, fall silent, hang up; and staff that gives coins back."""

    def __init__(self, books: Books) -> None:
        super().__init__()
        self.books = books
        self.model = Model()
        self.now_ms = 1_800_000_000_000
        self.users = [next(books.users) for _ in range(PAYERS + HOSTS)]
        self.ids: dict[int, UUID] = {}
        self.transfers: list[tuple[UUID, int, int, int, bool]] = []
        for user in self.users:
            books.run(wallets.open_wallet(books.conn, tenant_id=1, user_id=user))
            self.model.wallets[user] = Wallet()

    def do(self, work: Awaitable[T]) -> T | None:
        """Run a billing call; a typed refusal is an answer too."""
        try:
            return self.books.run(work)
        except BillingError:
            return None

    def live(self, payer: int) -> list[int]:
        return [key for key, m in self.model.meters.items() if m.payer == payer and m.state != "ended"]

    def pick(self, index: int) -> int:
        keys = list(self.model.meters)
        return keys[-1 - index % min(len(keys), 4)]

    @rule(who=st.integers(0, PAYERS - 1), coins=st.integers(1, 120), promo=st.booleans())
    def grant(self, who: int, coins: int, promo: bool) -> None:
        self.do(
            ledger.grant(
                self.books.conn,
                transfer_id=uuid4(),
                user_id=self.users[who],
                coins=coins,
                bucket="promo" if promo else "paid",
                reason="",
                now_ms=self.now_ms,
            )
        )
        self.model.grant(self.users[who], coins, promo, self.now_ms)
        self.compare()

    @rule(who=st.integers(0, PAYERS - 1), host=st.integers(0, HOSTS - 1), coins=st.integers(1, 80))
    def gift(self, who: int, host: int, coins: int) -> None:
        payer, payee, transfer_id = self.users[who], self.users[PAYERS + host], uuid4()
        expected = self.model.gift(payer, payee, coins, 1_750, self.now_ms)
        self.transfers.append((transfer_id, payer, payee, coins, expected))
        self.send(transfer_id, payer, payee, coins, expected)

    @precondition(lambda self: self.transfers)
    @rule(index=st.integers(0, 9))
    def repeat_a_gift(self, index: int) -> None:
        self.send(*self.transfers[index % len(self.transfers)])

    @precondition(lambda self: self.transfers)
    @rule(index=st.integers(0, 9))
    def reuse_the_id_of_a_gift(self, index: int) -> None:
        transfer_id, payer, payee, coins, _ = self.transfers[index % len(self.transfers)]
        self.send(transfer_id, payer, payee, coins + 1, False)

    def send(self, transfer_id: UUID, payer: int, payee: int, coins: int, expected: bool) -> None:
        result = self.do(
            gifts.send_gift(
                self.books.conn,
                transfer_id=transfer_id,
                payer_id=payer,
                payee_id=payee,
                price_coins=coins,
                commission_bp=1_750,
                memo="",
                now_ms=self.now_ms,
            )
        )
        assert (result is not None) == expected
        self.compare()

    @rule(who=st.integers(0, PAYERS - 1), host=st.integers(0, HOSTS - 1), tariff=st.sampled_from(TARIFFS))
    def call(self, who: int, host: int, tariff: Tariff) -> None:
        payer, payee = self.users[who], self.users[PAYERS + host]
        if self.live(payer):
            return
        key, meter_id = len(self.model.meters), uuid4()
        self.ids[key] = meter_id
        self.books.run(
            metering.open_meter(
                self.books.conn,
                meter_id=meter_id,
                tenant_id=1,
                payer_id=payer,
                payee_id=payee,
                tariff=tariff,
                now_ms=self.now_ms,
            )
        )
        self.model.meters[key] = Meter(payer, payee, tariff, self.now_ms)
        self.start(0)

    @precondition(lambda self: self.model.meters)
    @rule(index=st.integers(0, 3))
    def start(self, index: int) -> None:
        key = self.pick(index)
        self.do(metering.start(self.books.conn, self.ids[key], now_ms=self.now_ms))
        self.model.start(key, self.now_ms)
        self.compare()

    @rule(stride_ms=STRIDES_MS, heard=st.booleans())
    def time_goes_by(self, stride_ms: int, heard: bool) -> None:
        self.now_ms += stride_ms
        if heard:
            self.report([key for key, m in self.model.meters.items() if m.state != "ended"], 0, 0)
        self.tick()

    @rule()
    def tick(self) -> None:
        self.books.run(metering.tick(self.books.conn, now_ms=self.now_ms))
        self.model.tick(self.now_ms)
        self.compare()

    @precondition(lambda self: self.model.meters)
    @rule(index=st.integers(0, 3), payer=AGES_MS, payee=AGES_MS)
    def hear(self, index: int, payer: int | None, payee: int | None) -> None:
        self.report([self.pick(index)], payer, payee)
        self.compare()

    def report(self, keys: list[int], payer: int | None, payee: int | None) -> None:
        proofs = [Proof(self.ids[k], "payer", payer) for k in keys if payer is not None]
        proofs += [Proof(self.ids[k], "payee", payee) for k in keys if payee is not None]
        self.books.run(metering.prove(self.books.conn, proofs, now_ms=self.now_ms))
        for key in keys:
            if payer is not None or payee is not None:
                self.model.hear(key, self.now_ms, payer, payee)

    @rule()
    def database_forgets_the_evidence(self) -> None:
        self.books.run(self.books.owner.execute("truncate billing.meter_proofs"))
        self.model.forget_evidence()

    @precondition(lambda self: self.model.meters)
    @rule(
        index=st.integers(0, 3),
        ago_ms=st.sampled_from([0, 0, 1, 999, 3_000, 5_000, 60_000]),
        reason=st.sampled_from(["hung_up", "hung_up", "silent_host"]),
    )
    def hang_up(self, index: int, ago_ms: int, reason: str) -> None:
        key = self.pick(index)
        self.books.run(metering.stop(self.books.conn, self.ids[key], reason=reason, ago_ms=ago_ms, now_ms=self.now_ms))
        self.model.stop(key, self.now_ms, reason, ago_ms)
        self.compare()

    @precondition(lambda self: self.model.meters)
    @rule(index=st.integers(0, 3), tariff=st.sampled_from(TARIFFS))
    def switch_to_other_terms(self, index: int, tariff: Tariff) -> None:
        key = self.pick(index)
        if self.model.meters[key].first_tariff.grace_ms != tariff.grace_ms:
            return  # the grace stays that of the start; the model does not keep it apart
        expected = self.model.rerate(key, tariff, self.now_ms)
        state: Any = "running"
        try:
            self.books.run(metering.rerate(self.books.conn, self.ids[key], tariff, now_ms=self.now_ms))
        except InsufficientFunds:
            state = "insufficient_funds"
        except BillingError:
            state = expected if expected not in ("running", "insufficient_funds") else None
        assert state == expected
        self.compare()

    @precondition(lambda self: self.model.meters)
    @rule(index=st.integers(0, 3), period=st.integers(1, 4), coins=st.integers(1, 30))
    def staff_refunds(self, index: int, period: int, coins: int) -> None:
        key = self.pick(index)
        expected = self.model.refund(key, period, coins, self.now_ms)
        refund = staff.refund(
            self.books.conn,
            refund_id=uuid4(),
            meter_id=self.ids[key],
            period=period,
            coins=coins,
            actor="ann",
            reason="test",
            now_ms=self.now_ms,
        )
        try:
            self.books.run(refund)
            done = True
        except BillingError:
            done = False
        assert done == expected
        self.compare()

    def compare(self) -> None:
        found = self.books.run(wallets.balances(self.books.conn, self.users))
        assert {u: (b.paid, b.promo, b.earned) for u, b in found.items()} == {
            u: (w.paid, w.promo, w.earned + w.pending) for u, w in self.model.wallets.items()
        }
        rows = self.books.run(self.books.conn.fetch(STATE_SQL, list(self.ids.values())))
        by_id = {row["meter_id"]: row for row in rows}
        for key, m in self.model.meters.items():
            row = by_id[self.ids[key]]
            assert (row["state"], row["reason"], row["period"]) == (m.state, m.reason, len(m.charges))
            assert (row["spent"], row["share"], row["fee"], row["tax"], row["loss"]) == (
                m.spent,
                m.share,
                m.fee,
                m.tax,
                m.loss,
            )
            if m.state == "ended":
                assert row["ended_ms"] == m.ended_ms
            elif m.state != "open":
                assert row["due_ms"] == m.due_ms
        self.compare_warnings()

    def compare_warnings(self) -> None:
        """What payers are told of their money, since the last look, and the end that each of these tells."""
        told: dict[UUID, list[MeterEvent]] = {meter_id: [] for meter_id in self.ids.values()}
        while events := self.books.run(metering.take_events(self.books.conn)):
            for event in events:
                if event.kind in ("low_balance", "extended"):
                    told[event.meter_id].append(event)
        for key, m in self.model.meters.items():
            events = sorted(told[self.ids[key]], key=lambda event: event.id)
            assert [(event.kind, event.threshold_ms) for event in events] == m.warnings
            if m.state == "running":
                assert {event.ends_at_ms for event in events} <= {self.model.ends_ms(m)}
            m.warnings.clear()

    def teardown(self) -> None:
        """End what still runs, so that the next history has the worker for itself, and look at the receipts."""
        for key, meter_id in self.ids.items():
            self.books.run(metering.stop(self.books.conn, meter_id, reason="over", now_ms=self.now_ms))
            self.model.stop(key, self.now_ms, "over", 0)
            receipt = self.books.run(metering.receipt(self.books.conn, meter_id))
            assert receipt.time_ms("unexplained") == 0
            assert receipt.spent_coins == self.model.meters[key].spent
        self.compare()


def test_database_and_model_agree_on_every_history(pg_url: str) -> None:
    books = Books(pg_url)
    try:
        run_state_machine_as_test(
            lambda: Histories(books),  # type: ignore[arg-type]
            settings=settings(
                max_examples=HISTORIES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
                database=None,
                phases=PHASES,
            ),
        )
        report = books.run(audit(books.owner))
        assert report.ok, report.faults
    finally:
        books.close()
