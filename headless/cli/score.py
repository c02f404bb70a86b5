"""`inkstone score`: how well a model writes and follows, and two models compared."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ...errors import CallError
from ...files.paths import check_given, check_output
from ..arg_types import Commands, between, command, file_path
from ..draw.option_values import options
from ..draw.options import add_for_all
from ..node_types import Json
from .shared import add_json, as_text

if TYPE_CHECKING:
    from ...score.results import Result
    from ..queue.jobs import Job

_EXAMPLE = (
    "inkstone score --output scores/q4 --model qwen-image-Q4_K_M.gguf --text-encoder "
    "Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf --vae vae.safetensors\n"
    "  inkstone score english LongText-Bench/text_prompts.jsonl --limit 40 --output scores/q2 ...\n"
    "  inkstone score --compare q4/score.json q2/score.json --output q4-q2.html"
)


def add(commands: Commands) -> None:
    """The options."""
    p = command(
        commands,
        "score",
        "draw sets of prompts and count what came out; the same command resumes after a stop",
        _EXAMPLE,
    )
    p.add_argument(
        "sets",
        nargs="*",
        metavar="SET",
        help="a set that ships (english, chinese, latin, objects, edits; of the embedded model: "
        "embedded, embedded-edits), or a file: Inkstone's own form, GenEval's "
        "evaluation_metadata.jsonl, LongText-Bench's text_prompts.jsonl, CVTG-2K's folder, a list "
        "of Chinese characters "
        "(default: the first four; with the embedded model: embedded)",
    )
    p.add_argument(
        "-o",
        "--output",
        type=file_path,
        metavar="DIR",
        help="folder for pictures, score.json and score.html; with --compare the page to write",
    )
    p.add_argument(
        "--compare",
        type=file_path,
        nargs=2,
        metavar=("A.json", "B.json"),
        help="compare two results instead: what B gains and loses against A, with intervals",
    )
    p.add_argument(
        "--limit",
        type=between(1, 20_000, int),
        metavar="N",
        help="draw at most N prompts of each set, of every group its share (default: all; of the "
        "embedded model's sets 200)",
    )
    p.add_argument("--name", default="", metavar="TEXT", help="name of the run in results")
    p.add_argument(
        "--font",
        type=file_path,
        metavar="F",
        help="font in which the reader is measured on true renderings (default: one of the "
        "system's that has the characters)",
    )
    add_json(p, "print the result as JSON")
    add_for_all(p)
    unset: dict[str, Json] = {name: None for name in options()}  # None = not on this command line
    p.set_defaults(handler=run, **unset)


def run(args: argparse.Namespace) -> int:
    """Score, or compare; 1 where a picture could not be drawn."""
    if args.compare:
        return _compare(args)
    from ..score.call import ScoreCall
    from ..score.run import score

    if args.output is None:
        raise CallError("--output is missing: name a folder for pictures and results.")
    if args.batch is not None and args.batch > 1:
        raise CallError("--batch is not for scores: a prompt has one picture. Use another --seed.")
    given = {name: getattr(args, name, None) for name in options()}
    call = ScoreCall(
        sets=args.sets,
        output=args.output,
        name=args.name,
        limit=args.limit,
        seed=args.seed or 0,
        font=args.font,
        options={k: v for k, v in given.items() if v is not None and k not in ("seed", "prompt")},
    )
    bar = None if args.quiet or not sys.stderr.isatty() else _show_step
    result = score(call, bar)
    print(result.text() if args.json else "\n".join(_lines(result)))
    if not args.json:
        print(call.output / "score.html")
    return 1 if any(picture.error for picture in result.pictures) else 0


def _lines(result: Result) -> list[str]:
    """The result as a few lines: rates, and the readers' own on true renderings."""
    from ...score.rates import percent, rates

    lines = [result.name]
    for name, pictures in result.sets().items():
        for measure, rate in rates(p.marks for p in pictures).items():
            span = f"{100 * rate.interval.low:.1f} to {100 * rate.interval.high:.1f}"
            share = percent((rate.right, rate.asked))
            lines.append(f"  {name:15} {measure:10} {share:>8} ({span}), {rate.right}/{rate.asked}")
    lines += ["the readers on true renderings"] * bool(result.truth)
    for name, marks in result.truth.items():
        shares = ", ".join(f"{m} {percent(pair)}" for m, pair in marks.items())
        lines.append(f"  {name}: {shares}")
    for name, check in result.checks.items():
        for measure, (here, there) in check.items():
            lines.append(
                f"  {name}, pictures right in {measure}: {100 * here:.1f} %, its own checker "
                f"{100 * there:.1f} %"
            )
    failed = sum(bool(picture.error) for picture in result.pictures)
    lines += [f"{failed} pictures could not be drawn"] * bool(failed)
    return [*lines, *result.notes]


def _compare(args: argparse.Namespace) -> int:
    from ...files.atomic import write_text
    from ...score.page import comparison_page
    from ...score.results import compared, read_result
    from ..score.thumbnails import thumbnails

    if args.sets:
        raise CallError("--compare takes two results and no sets: leave them out.")
    for path in args.compare:
        check_given(path, "--compare", kinds=("file",))
    if args.output is not None:
        check_output(args.output)
    comparison = compared(*map(read_result, args.compare))
    if args.output is not None:
        folders = [thumbnails(path.parent) for path in args.compare]
        write_text(args.output, comparison_page(comparison, *folders))
    if args.json:
        print(as_text(comparison.facts()))
        return 0
    print(f"{comparison.b.name} against {comparison.a.name}, {len(comparison.pairs)} pictures")
    for name, measures in comparison.by_set().items():
        for measure, difference in measures.items():
            print(f"  {name:15} {measure:10} {difference.sentence(measure)}")
    return 0


def _show_step(job: Job, done: int, of: int) -> None:
    sys.stderr.write(f"\r{job.name}: step {done}/{of}" + ("\n" if done == of else ""))
    sys.stderr.flush()
