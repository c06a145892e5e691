"""The benchmarks' one command: its list, its record, and figures that mean what they say."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.__main__ import main, scenarios
from bench.harness import ROOT, ServerFailed, cpu_seconds, latency_figures, machine, percentile, server_process


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=300), q=st.floats(0, 1))
def test_a_percentile_is_a_sample_that_enough_samples_do_not_exceed(values: list[float], q: float) -> None:
    found = percentile(values, q)
    assert found in values
    assert sum(value <= found for value in values) >= q * len(values)


def test_no_samples_have_no_percentile_and_no_figures() -> None:
    assert math.isnan(percentile([], 0.5))
    assert latency_figures([]) == {}


def test_latency_figures_are_flat_and_named_by_their_prefix() -> None:
    assert latency_figures([1.0, 2.0, 3.0], "ring_") == {"ring_p50_ms": 2.0, "ring_p99_ms": 3.0}


def test_the_list_names_every_scenario_with_a_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    listed = capsys.readouterr().out
    for name, scenario in scenarios().items():
        assert name in listed
        assert scenario.summary in listed
    assert "apps" in scenarios()


def test_a_scenario_that_cannot_run_here_says_why_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["echo"]) == 1
    assert capsys.readouterr().err == "echo: this scenario needs a C compiler: its load generator is a C program\n"


def test_the_machine_is_described_without_naming_it() -> None:
    facts = machine()
    assert set(facts) == {"cpu", "cores", "memory_gb", "python", "system"}
    assert os.uname().nodename not in json.dumps(facts)


def test_processor_time_of_a_process_that_is_gone_is_zero() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert cpu_seconds(child.pid).total == 0


def test_a_server_that_does_not_start_is_told_with_its_own_words() -> None:
    with pytest.raises(ServerFailed, match="--no-such-option"), server_process("--no-such-option"):
        pass


def test_the_apps_scenario_prints_one_object_and_leaves_right_books() -> None:
    command = [sys.executable, "-m", "bench", "apps", "--apps", "4", "--seconds", "1", "--call-s", "1.5", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=True)
    report = json.loads(done.stdout)
    assert set(report) == {"scenario", "machine", "figures"}
    figures = report["figures"]
    assert all(isinstance(value, int | float | str) for value in figures.values())
    assert (figures["calls"], figures["failed_calls"], figures["books"]) == (2, 0, "right")
    assert figures["charges"] >= 4  # each of the two sides of each call was told of its first pulse
    assert figures["call_invite_p50_ms"] > 0
    assert figures["server_cpu_us_each"] > 0
