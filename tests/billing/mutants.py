# ruff: noqa: E501 - replacements quote the code as it stands
"""Breaks billing on purpose, one rule at a time, and demands that the tests notice: `python -m tests.billing.mutants`.

Each mutant is one replacement in one file of a copy of the project; the billing tests run there until the first failure.
A mutant that survives makes the exit status 1. So does one whose text is no longer found: it would prove nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 900  # a run takes 15 s on a quiet machine; on a busy one it must not count as killed by the clock
COPIED = ("billing", "realtime", "presence", "tests", "pyproject.toml")
# Those that name the rules first: they kill most mutants within seconds.
TESTS = tuple(
    f"tests/billing/test_{name}.py"
    for name in ("metering", "warnings", "liveness", "ledger", "receipts", "money", "batcher", "transfers", "histories")
)
TICKS = "billing/migrations/0006_ticks.sql"
METERING = "billing/migrations/0004_metering.sql"
LIVENESS = "billing/migrations/0005_liveness.sql"
TRANSFERS = "billing/migrations/0002_transfers.sql"
HOLDS = "billing/migrations/0008_holds.sql"
STAFF = "billing/migrations/0009_staff.sql"
BATCHER = "billing/batcher.py"
BATCHES = "billing/transfers.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A rule broken: `old` becomes `new` in `file`, everywhere or once."""

    rule: str
    file: str
    old: str
    new: str


MUTANTS = (
    Mutant("tick without a funds check", TICKS, "w.paid + w.promo >= c.price and not w.restricted", "not w.restricted"),
    Mutant(
        "start without a funds check",
        METERING,
        "user_id = m.payer_id and paid + promo >= p_price",
        "user_id = m.payer_id",
    ),
    Mutant("gift without a funds check", TRANSFERS, "w.paid + w.promo >= a.coins and not", "not"),
    Mutant("transfer without a funds check", TRANSFERS, "when j.available < j.coins then", "when false then"),
    Mutant(
        "minute pulses due with < for <=",
        TICKS,
        "m.slot = any (p_slots) and m.due_ms <= v_now",
        "m.slot = any (p_slots) and m.due_ms < v_now",
    ),
    Mutant("other pulses due with < for <=", TICKS, "where m.timer_ms <= v_now", "where m.timer_ms < v_now"),
    Mutant(
        "commission rounded down in each pulse", TICKS, "(c.fee_n % 10000)::int as fee_remainder", "0 as fee_remainder"
    ),
    Mutant(
        "commission rounded down in each charge",
        METERING,
        "fee_remainder := ((v_n % 10000) + 10000) % 10000;",
        "fee_remainder := ((v_n % 10000) + 10000) % 10000; v_n := v_n - fee_remainder; fee_remainder := 0;",
    ),
    Mutant(
        "host credited the fee at a tick",
        TICKS,
        "share = m.share + f.price - f.gross, fee",
        "share = m.share + f.price, fee",
    ),
    Mutant(
        "host credited the fee of a gift",
        TRANSFERS,
        "sum(p.coins - p.fee)::bigint as earned",
        "sum(p.coins)::bigint as earned",
    ),
    Mutant(
        "refund forgets the buckets",
        METERING,
        "v_promo := p_coins - least(p_coins, (c.price - c.promo) - (v_before.coins - v_before.promo));",
        "v_promo := 0;",
    ),
    Mutant(
        "refund returns promotional coins first",
        METERING,
        "v_promo := p_coins - least(p_coins, (c.price - c.promo) - (v_before.coins - v_before.promo));",
        "v_promo := least(p_coins, c.promo - v_before.promo);",
    ),
    Mutant(
        "hang-up not idempotent",
        TICKS,
        "elsif m.state = 'ended' then\n        return;\n    elsif m.state = 'open' then\n        update",
        "elsif m.state = 'open' then\n        update",
    ),
    Mutant(
        "hang-up ignores when it was sent", TICKS, "v_at := v_now - least(greatest(p_ago, 0), 5000);", "v_at := v_now;"
    ),
    Mutant("hang-up reaches back for ever", TICKS, "least(greatest(p_ago, 0), 5000)", "greatest(p_ago, 0)"),
    Mutant("pulse after the hang-up is kept", METERING, "exit when v_unused < v_length - v_cut;", "exit;"),
    Mutant(
        "resume charges the silence",
        LIVENESS,
        "due_ms = p_now + due_ms - suspended_ms,\n",
        "due_ms = greatest(p_now, due_ms),\n",
    ),
    Mutant("silence is charged", TICKS, "from claimed q where q.fresh) x", "from claimed q) x"),
    Mutant(
        "one side's silence is charged",
        TICKS,
        "p.payer_heard_ms >= v_now - c.grace_ms / 2 and p.payee_heard_ms >= v_now - c.grace_ms / 2",
        "p.payer_heard_ms >= v_now - c.grace_ms / 2",
    ),
    Mutant(
        "blindness taken for silence",
        LIVENESS,
        "v_silent := silent_side(p, m.grace_ms / 2);",
        "v_silent := coalesce(silent_side(p, m.grace_ms / 2), 'payer');",
    ),
    Mutant(
        "lost call ends now, not at the last proof",
        LIVENESS,
        "perform lose(p_now, m.meter_id, m.suspended_ms,",
        "perform lose(p_now, m.meter_id, least(p_now, m.due_ms),",
    ),
    Mutant("pauses without end", LIVENESS, "is not null or m.pauses >= 3 then", "is not null then"),
    Mutant(
        "our outage is charged",
        TICKS,
        "case when v_now - q.due_ms > 60000 then v_now else q.due_ms end as begins_ms",
        "q.due_ms as begins_ms",
    ),
    Mutant("reused transfer id is accepted", TRANSFERS, "case when not a.same then 'conflict' when", "case when"),
    Mutant(
        "refused transfer id gets a second chance",
        TRANSFERS,
        "when a.known_refused is not null then 'refused' else 'replayed'",
        "when false then 'refused' else 'replayed'",
    ),
    Mutant(
        "paid coins are spent first",
        TICKS,
        "last_promo = least(w.promo, c.price), promo = w.promo - least(w.promo, c.price),\n            paid = w.paid - (c.price - least(w.promo, c.price))",
        "last_promo = c.price - least(w.paid, c.price), promo = w.promo - (c.price - least(w.paid, c.price)),\n            paid = w.paid - least(w.paid, c.price)",
    ),
    Mutant(
        "host's share not credited at the end",
        METERING,
        "set earned = e.earned + x.share, v",
        "set earned = e.earned, v",
    ),
    Mutant("loss booked to nobody", METERING, "loss = loss - s.share - v_taken", "loss = loss"),
    Mutant(
        "minimum charge not kept",
        METERING,
        "v_back := least(v_back, v_spent - (v_tariff ->> 'minimum_coins')::bigint);",
        "",
    ),
    Mutant("re-rating keeps the unused pulse", TICKS, "    if v_back > 0 then", "    if false then"),
    Mutant(
        "short-call waivers without a limit", METERING, "< (t ->> 'short_waivers_per_day')::int then", "< 1000000 then"
    ),
    Mutant(
        "free time without a limit",
        METERING,
        "case when p_free > 0 and p_free <= p_per_day - coalesce((",
        "case when p_free > 0 and p_free <= 86400000 - 0 * coalesce((",
    ),
    Mutant(
        "warning told at every pulse",
        TICKS,
        "where (f.band).told_ms < f.low_told_ms or f.remains",
        "where true or f.remains",
    ),
    Mutant("only the first threshold is told", TICKS, "(f.band).next_ms end", "-1 end"),
    Mutant(
        "tick forgets that a threshold was told",
        TICKS,
        "else (f.band).told_ms end",
        "else m.low_told_ms end",
    ),
    Mutant(
        "tick looks at thresholds with < for <=",
        TICKS,
        "not between f.low_next_ms + 1 and",
        "not between f.low_next_ms and",
    ),
    Mutant("thresholds with < for <=", METERING, "where t.ms::int >= p_left", "where t.ms::int > p_left"),
    Mutant("last warning is not told", TICKS, "case when f.remains < f.price or f.left_ms", "case when f.left_ms"),
    Mutant("gift in a call warns nobody", TRANSFERS, "        perform warn_payers(v_now, v_payers, v_spent);", ""),
    Mutant("top-up in a call tells nobody", TRANSFERS, "        perform warn_payers(v_now, v_users, v_moved);", ""),
    Mutant(
        "told end is not told again when it moves",
        METERING,
        "or (v_moved and v_band.told_ms < 2147483647) then",
        "then",
    ),
    Mutant(
        "top-up does not arm the thresholds again",
        METERING,
        "where meter_id = p_meter and (low_next_ms, low_told_ms) <>",
        "where meter_id = p_meter and v_band.told_ms < low_told_ms and (low_next_ms, low_told_ms) <>",
    ),
    Mutant(
        "gift waits for a meter that somebody holds",
        METERING,
        "for no key update of m skip locked\n    loop",
        "for no key update of m\n    loop",
    ),
    Mutant("pause moves the end and nobody is told", LIVENESS, "    perform warn(p_now, p_meter, null);\n", ""),
    Mutant("new terms keep what was told of the old", TICKS, "low_next_ms = -1, low_told_ms = 2147483647", "v = v"),
    Mutant("hold posted twice", HOLDS, "elsif h.state <> 'pending' then\n        return h.state;", ""),
    Mutant(
        "purchase credited by event",
        STAFF,
        "if not found then\n        select * into strict v_old from purchases",
        "if false then\n        select * into strict v_old from purchases",
    ),
    Mutant(
        "batch with two payments of one wallet", BATCHES, 'if transfer.debit in ("wallet", "earnings"):', "if False:"
    ),
    Mutant(
        "batch with one transfer twice",
        BATCHES,
        "return transfer.transfer_id, (transfer.debit, transfer.debit_owner)",
        "return ((transfer.debit, transfer.debit_owner),)",
    ),
    Mutant("lost connection is taken for a culprit", BATCHES, "if isinstance(error, UNREACHABLE):", "if False:"),
    Mutant(
        "lock that one has met holds up its batch",
        BATCHES,
        "isinstance(error, Busy) and transfers == 1",
        "isinstance(error, Busy)",
    ),
    Mutant(
        "undecided is taken for refused",
        BATCHES,
        "return Undecided(UnknownAccount(",
        "return (UnknownAccount(",
    ),
    Mutant("culprit takes its batch along", BATCHER, "if len(batch) == 1:", "if True:"),
    Mutant(
        "one overtakes whom it shares a key with",
        BATCHER,
        "(batch if taken.isdisjoint(keys) else later).append(waiting)\n            taken.update",
        "if not taken.isdisjoint(keys):\n                later.append(waiting)\n                continue\n            batch.append(waiting)\n            taken.update",
    ),
    Mutant(
        "who cannot go now goes to the end",
        BATCHER,
        "self._queue.extendleft(reversed(later))",
        "self._queue.extend(later)",
    ),
    Mutant(
        "who gave up is booked",
        BATCHER,
        "if waiting.result.done():\n                continue",
        "if False:\n                continue",
    ),
    Mutant("more batches than lanes", BATCHER, "await free.acquire()", "pass"),
    Mutant("those under way are left waiting at the stop", BATCHER, 'self._refuse(batch, "the server stops")', "pass"),
    Mutant("queue without an end", BATCHER, "if len(self._queue) >= self._options.pending_max:", "if False:"),
)


def run(mutant: Mutant) -> tuple[Mutant, str, float]:
    """Return what became of a mutant: killed, SURVIVED or NOT FOUND, and the seconds it took."""
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="tm-mutant-"))
    try:
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        path = folder / mutant.file
        text = path.read_text()
        if mutant.old not in text:
            return mutant, "NOT FOUND", 0.0
        path.write_text(text.replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", *TESTS]
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env=_environment(folder),
        )
        return mutant, "SURVIVED" if done.returncode == 0 else "killed", time.monotonic() - began
    except subprocess.TimeoutExpired:
        return mutant, "TIMED OUT", time.monotonic() - began
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all mutants, or those whose rule contains a word; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.billing.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("words", nargs="*", help="only mutants whose rule contains one of these")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    chosen = [m for m in MUTANTS if not options.words or any(word in m.rule for word in options.words)]
    bad = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, outcome, took_s in pool.map(run, chosen):
            bad += outcome != "killed"
            print(f"{outcome:<10} {took_s:5.1f} s  {mutant.rule}", flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} mutants killed")
    return 1 if bad else 0


def _environment(folder: Path) -> dict[str, str]:
    # A found difference is enough here: shrinking it to the shortest history would take most of the time.
    more = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "TALKMETER_SHRINK": "0"}
    return {**os.environ, **more}


if __name__ == "__main__":
    sys.exit(main())
