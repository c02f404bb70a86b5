"""What benchmarks with tables of their own share beside the harness: alignment, last lines."""

from __future__ import annotations

import argparse

from bench import harness

Cells = list[tuple[str, ...]]


def facts(args: argparse.Namespace) -> dict:
    """Command line, machine and threads, for every report."""
    return {"command": harness.command(), **harness.machine(), "threads": args.threads}


def aligned(cells: Cells) -> list[str]:
    """Rows of a table, the first column to the left, the others to the right."""
    widths = [max(len(c[i]) for c in cells) for i in range(len(cells[0]))]
    return [
        "  ".join(
            [c[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(c[1:], widths[1:], strict=True))]
        )
        for c in cells
    ]


def report(title: str, cells: Cells, said: dict) -> str:
    """Title, table, machine, command."""
    machine = f"{said['cpu']} ({' '.join(said['flags'])})"
    foot = f"{machine}, {said['threads']} threads, torch {said['torch']}"
    return "\n".join([title, *aligned(cells), foot, f"$ {said['command']}"])


def ratio(a: float | None, b: float | None) -> str:
    """a / b for a table; "-" where one is missing."""
    return f"{a / b:.3f}" if a and b else "-"
