"""`python -m bench`: lists the scenarios, or runs one and prints its figures.

A scenario is a module of this folder with a `SCENARIO`; what it needs is imported only when the folder is read.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from collections.abc import Mapping, Sequence

import bench
from bench._native import BenchFailed
from bench.harness import Figures, Scenario, ServerFailed, machine


def scenarios() -> dict[str, Scenario]:
    """Return every scenario of this folder by name, sorted."""
    found: list[Scenario] = []
    for module in pkgutil.iter_modules(bench.__path__):
        if module.ispkg or module.name.startswith("_"):
            continue
        scenario = getattr(importlib.import_module(f"bench.{module.name}"), "SCENARIO", None)
        if isinstance(scenario, Scenario):
            found.append(scenario)
    return {scenario.name: scenario for scenario in sorted(found, key=lambda scenario: scenario.name)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    known = scenarios()
    parser = argparse.ArgumentParser(prog="python -m bench", description="Load tests of talkmeter on real processes.")
    commands = parser.add_subparsers(dest="scenario", metavar="SCENARIO")
    for scenario in known.values():
        command = commands.add_parser(scenario.name, help=scenario.summary, description=scenario.summary)
        command.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
        scenario.add_arguments(command)
    options = parser.parse_args(arguments)
    if options.scenario is None:
        print(_listing(known))
        return 0
    facts = machine()  # before a scenario keeps this process on some of the cores
    try:
        figures = known[options.scenario].run(options)
    except (BenchFailed, ServerFailed) as failed:
        print(f"{options.scenario}: {failed}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"scenario": options.scenario, "machine": facts, "figures": figures}))
    else:
        print(_table(options.scenario, facts, figures))
    return 0


def _listing(known: dict[str, Scenario]) -> str:
    width = max((len(name) for name in known), default=0)
    lines = [f"  {name:<{width}}  {scenario.summary}" for name, scenario in known.items()]
    return "\n".join(["Scenarios (python -m bench NAME [--json] [--help]):", *lines])


def _table(name: str, facts: Mapping[str, int | str], figures: Figures) -> str:
    machine_line = ", ".join(f"{key} {value}" for key, value in facts.items())
    width = max((len(figure) for figure in figures), default=0)
    lines = [f"  {figure:<{width}}  {_shown(value)}" for figure, value in figures.items()]
    return "\n".join([f"{name} ({machine_line})", *lines])


def _shown(value: int | float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"


if __name__ == "__main__":
    sys.exit(main())
