"""What a part of the check found: a table, notes, faults; as Markdown and JSON. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

Row = dict[str, str]  # column -> cell; the rows of a part may have different columns


@dataclass
class Part:
    """The result of one part. `cut`: what was not run for want of time."""

    name: str
    title: str = ""
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    checks: int = 0
    seconds: float = 0.0

    def row(self, **cells: object) -> None:
        """Adds a row; "_" in the name of a column stands for a space."""
        self.rows.append({name.replace("_", " "): str(value) for name, value in cells.items()})

    def check(self, what: str, value: float, most: float) -> str:
        """Holds `value` against its limit; returns it for the table. NaN is a fault."""
        self.checks += 1
        if not value <= most:
            self.faults.append(f"{what}: {value:.3g}, expected at most {most:.3g}")
        return f"{value:.1e}" if value else "0"

    def holds(self, what: str, good: bool) -> bool:
        """Notes a fault unless `good`."""
        self.checks += 1
        if not good:
            self.faults.append(what)
        return good

    @property
    def columns(self) -> list[str]:
        """The columns of all rows, in the order of their first use."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def verdict(self) -> str:
        """One line."""
        parts = [f"{self.checks - len(self.faults)} of {self.checks} checks passed"]
        parts += [f"{len(self.cut)} not run for want of time"] if self.cut else []
        return f"{self.name}: {', '.join(parts)}, {self.seconds:.0f} s"


def markdown(part: Part) -> str:
    """A section for bench/RESULTS.md."""
    lines = [f"### {part.title or part.name}", ""]
    if part.rows:
        names = part.columns
        lines += [_line(names), _line(["---"] * len(names))]
        lines += [_line([row.get(name, "") for name in names]) for row in part.rows]
        lines.append("")
    lines += [f"- {note}" for note in part.notes]
    lines += [f"- FAILED: {fault}" for fault in part.faults]
    if part.cut:
        lines.append(f"- cut for want of time: {', '.join(part.cut)}")
    lines.append(f"- {part.verdict}")
    return "\n".join([*lines, ""])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def facts(parts: list[Part]) -> list[dict]:
    """All parts for JSON."""
    return [asdict(part) for part in parts]
