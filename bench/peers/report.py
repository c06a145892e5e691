"""The table and the plot of `bench.peers`. Pure: facts in, text out; the plot is SVG written by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

COLUMNS = (
    ("request -> ack, 1/s", "echo_per_cpu_s", 1.0),
    ("fan-out, one in flight, 1/s", "fanout_per_cpu_s", 1.0),
    ("fan-out, queued, M/s", "queued_per_cpu_s", 1e6),
    ("KB per socket", "kb_per_socket", 1.0),
)
WIDTH, LABEL, BAR, GAP, TITLE = 760, 190, 18, 8, 40
COLOURS = {"talkmeter": "#0f766e", "C": "#94a3b8"}
OTHER = "#cbd5e1"

Rows = Sequence[Mapping[str, Any]]


def table(facts: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in facts["machine"].items())
    lines = [
        "# talkmeter beside others",
        "",
        f"One core for the server, the other half of the machine for the load generator ({machine}); "
        f"{facts['members']} sockets in one channel, requests of some 200 bytes, no compression. "
        "Rates are per second of the server's own CPU time. Made by `make bench-peers`.",
        "",
        "| server | " + " | ".join(title for title, _, _ in COLUMNS) + " | |",
        "|---|" + "---:|" * len(COLUMNS) + "---|",
    ]
    for row in facts["rows"]:
        cells = [_cell(row[name], scale) for _, name, scale in COLUMNS]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + f" | {row['note']} |")
    return "\n".join([*lines, "", "![The same as bars](bench-peers.svg)", ""])


def plot(facts: Mapping[str, Any]) -> str:
    """Return one bar chart for each column, one under the other."""
    parts: list[str] = []
    top = 10
    for title, name, scale in COLUMNS:
        rows = [row for row in facts["rows"] if row[name] is not None]
        parts += _chart(title, [(row["name"], row[name] / scale) for row in rows], top)
        top += TITLE + len(rows) * (BAR + GAP) + 14
    style = "font-family:system-ui,sans-serif;font-size:13px"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" style="{style}">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{top}" fill="#fff"/>', *parts, "</svg>", ""])


def _chart(title: str, bars: Sequence[tuple[str, float]], top: int) -> list[str]:
    largest = max((value for _, value in bars), default=0) or 1
    parts = [f'<text x="8" y="{top + 18}" font-weight="600">{escape(title)}</text>']
    for index, (name, value) in enumerate(bars):
        y = top + TITLE - 8 + index * (BAR + GAP)
        width = max(1, round((WIDTH - LABEL - 90) * value / largest))
        colour = COLOURS.get(name, COLOURS["C"] if name.startswith("C,") else OTHER)
        parts.append(f'<text x="{LABEL - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{width}" height="{BAR}" rx="3" fill="{colour}"/>')
        parts.append(f'<text x="{LABEL + width + 6}" y="{y + 13}">{_number(value)}</text>')
    return parts


def _cell(value: float | None, scale: float) -> str:
    return "-" if value is None else _number(value / scale)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
