"""A page of a result: one HTML file with its pictures in it.

No script, nothing that is loaded from elsewhere: the policy in its head forbids both, and every
text from a set or a picture is escaped.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from .judge import MEASURES, Marks
from .page_style import STYLE
from .rates import Rate, by_key, rates
from .results import Comparison, PictureResult, Result

Thumbnail = Callable[[PictureResult], str]  # a data: address of its picture, "" without one

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'"
_INTERVALS = (
    "Intervals are at 95 %: exact binomial (Clopper-Pearson) where a picture counts once, a "
    "bootstrap over pictures where it has several words or things, because those of one picture "
    "are right or wrong together."
)
_PAIRED = (
    "The same prompts and seeds with both: intervals at 95 % by a paired bootstrap over pictures; "
    "p is the exact sign test of the pictures that became worse and better (McNemar's test where a "
    "picture is right or wrong). Where p is above 5 %, the interval holds zero."
)


def page(result: Result, thumbnail: Thumbnail) -> str:
    """The page of one result."""
    parts = [
        f"<h1>{_e(result.name)}</h1>",
        _settings(result),
        *(f'<p class="note">{_e(note)}</p>' for note in result.notes),
        "<h2>Rates</h2>",
        _rate_table({name: [p.marks for p in ps] for name, ps in result.sets().items()}),
        f"<p>{_INTERVALS}</p>",
        _truth(result.truth),
        _checks(result.checks),
    ]
    for name, pictures in result.sets().items():
        groups = by_key((picture.group or "-", picture.marks) for picture in pictures)
        parts.append(f"<h2>{_e(name)}</h2>")
        if len(groups) > 1:
            parts.append(_rate_table(groups, "group"))
        parts.append(_cards(_card(p, thumbnail(p)) for p in _wrong_first(pictures)))
    return _document(result.name, parts)


def comparison_page(comparison: Comparison, first: Thumbnail, second: Thumbnail) -> str:
    """The page of two results: differences, then the pictures that differ, side by side."""
    a, b = comparison.a, comparison.b
    title = f"{b.name} against {a.name}"
    parts = [
        f"<h1>{_e(title)}</h1>",
        f"<p>{len(comparison.pairs)} pictures of the same prompts and seeds"
        + "".join(
            f"; {count} only in {_e(one.name)}"
            for one, count in zip((a, b), comparison.alone)
            if count
        )
        + ".</p>",
        _difference_table(comparison),
        f"<p>{_PAIRED}</p>",
        _truth(a.truth),
        "<h2>Pictures that differ</h2>",
    ]
    pairs = [(x, y) for x, y in comparison.pairs if x.marks != y.marks or x.error != y.error]
    cards = (
        f'<div class="pair">{_card(x, first(x), a.name)}{_card(y, second(y), b.name)}</div>'
        for x, y in pairs
    )
    parts.append("".join(cards) or "<p>None.</p>")
    return _document(title, parts)


def _document(title: str, parts: Iterable[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_e(title)} - inkstone score</title>\n<style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _e(text: object) -> str:
    """A text for HTML. Characters that turn the direction of writing are shown as their codes."""
    shown = "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in str(text))
    return html.escape(shown, quote=True)


def _settings(result: Result) -> str:
    facts = {**result.settings, **{f"reader of {k}": v for k, v in result.readers.items()}}
    rows = "".join(f"<dt>{_e(k)}</dt><dd>{_e(v)}</dd>" for k, v in facts.items() if v is not None)
    return f"<dl>{rows}</dl>"


def _rate_table(groups: Mapping[str, Sequence[Marks]], title: str = "set") -> str:
    counted = {name: rates(marks) for name, marks in groups.items()}
    used = [m for m in MEASURES if any(m in each for each in counted.values())]
    head = "".join(f'<th title="{_e(MEASURES[m])}">{_e(m)}</th>' for m in used)
    rows = "".join(
        f"<tr><th>{_e(name)}</th><td>{len(groups[name])}</td>"
        + "".join(f"<td>{_rate_cell(each.get(m))}</td>" for m in used)
        + "</tr>"
        for name, each in counted.items()
    )
    return (
        f'<div class="wide"><table><tr><th>{_e(title)}</th><th>pictures</th>{head}</tr>{rows}'
        "</table></div>"
    )


def _rate_cell(rate: Rate | None) -> str:
    if rate is None:
        return ""
    interval = rate.interval
    return (
        f"<b>{100 * interval.value:.1f} %</b><br><small>{100 * interval.low:.1f} to "
        f"{100 * interval.high:.1f}</small><br><small>{rate.right} of {rate.asked}</small>"
    )


def _truth(truth: Mapping[str, Marks]) -> str:
    if not truth:
        return ""
    used = [m for m in MEASURES if any(m in marks for marks in truth.values())]
    rows = "".join(
        f"<tr><th>{_e(name)}</th>"
        + "".join(f"<td>{_share(marks.get(m))}</td>" for m in used)
        + "</tr>"
        for name, marks in truth.items()
    )
    head = "".join(f"<th>{_e(m)}</th>" for m in used)
    return (
        "<h2>The readers themselves</h2><p>What they make of true renderings, in which everything "
        f'is right.</p><div class="wide"><table><tr><th></th>{head}</tr>{rows}</table></div>'
    )


def _share(pair: tuple[int, int] | None) -> str:
    return f"{100 * pair[0] / pair[1]:.1f} %" if pair and pair[1] else ""


def _checks(checks: Mapping[str, Mapping[str, tuple[float, float]]]) -> str:
    rows = "".join(
        f"<tr><th>{_e(name)}</th><td>{_e(measure)}</td><td>{100 * here:.1f} %</td>"
        f"<td>{100 * there:.1f} %</td></tr>"
        for name, check in checks.items()
        for measure, (here, there) in check.items()
    )
    head = "<tr><th>set</th><th>pictures right in</th><th>here</th><th>its own checker</th></tr>"
    return f"<h2>The embedded model's own checker</h2><table>{head}{rows}</table>" if rows else ""


def _difference_table(comparison: Comparison) -> str:
    a, b = comparison.a.name, comparison.b.name
    rows = "".join(
        f"<tr><th>{_e(name)}</th><td>{_e(measure)}</td><td>{_share((d.a, d.asked))}</td>"
        f"<td>{_share((d.b, d.asked))}</td><td>{_e(d.sentence(measure))}</td>"
        f"<td>{d.worse}</td><td>{d.better}</td><td>{d.p:.3g}</td></tr>"
        for name, measures in comparison.by_set().items()
        for measure, d in measures.items()
    )
    head = (
        f"<tr><th>set</th><th>measure</th><th>{_e(a)}</th><th>{_e(b)}</th><th>difference</th>"
        "<th>pictures worse</th><th>better</th><th>p</th></tr>"
    )
    return f'<div class="wide"><table>{head}{rows}</table></div>'


def _wrong_first(pictures: Sequence[PictureResult]) -> list[PictureResult]:
    """Failed and wrong ones, then those that nobody judged, then the right ones."""
    return sorted(pictures, key=lambda p: {False: 0, None: 1, True: 2}[p.right] - bool(p.error))


def _cards(cards: Iterator[str]) -> str:
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(picture: PictureResult, address: str, model: str = "") -> str:
    state = {True: "right", False: "wrong", None: "open"}[picture.right]
    image = f'<img src="{_e(address)}" alt="">' if address else '<div class="none"></div>'
    wrong = ", ".join(
        f"{measure} {right} of {asked}"
        for measure, (right, asked) in picture.marks.items()
        if right < asked and measure != "all"
    )
    rows = [
        ("", model),
        ("prompt", picture.prompt),
        ("asked", " | ".join(picture.asked)),
        ("read", " | ".join(picture.read)),
        ("found", " | ".join(picture.found)),
        ("wrong", wrong),
        ("error", picture.error),
    ]
    text = "".join(f"<p><b>{_e(name)}</b> {_e(value)}</p>" for name, value in rows if value)
    head = f"{_e(picture.id)} <small>{_e(picture.group)}, seed {picture.seed}</small>"
    return f'<div class="card {state}">{image}<div><p class="id">{head}</p>{text}</div></div>'
