"""Runs the benchmarks one after another and appends what they print to bench/RESULTS.md.

Each figure is one command of this folder; its table ends with that command, so a reader can run it
alone. A block of results begins with the date, the machine and the commit; it goes to the end of
the file, its history, and the rows of the tables above are replaced by hand. With --quick every
command runs at a tiny size and nothing is appended: that shows that the commands work, no more.

python bench/results.py                 # all figures: about an hour on two cores
python bench/results.py vae-1024 draw   # some
python bench/results.py full-256 full-512 --folder /tmp/inkstone-full  # full size, 17 GB of files
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import harness

RESULTS = harness.ROOT / "bench" / "RESULTS.md"
HEAD = """# Results

What one machine measured on one day, the newest block last. Every block was appended by
`python bench/results.py`; every table ends with the command that gives it alone. Times are the best
of several turns, ours and the peer's in one run; `floor` is the products of the same work alone.
"""


@dataclass(frozen=True)
class Figure:
    """A command (file of this folder and its arguments), its goal, arguments for a tiny run.

    `large`: writes 17 GB and wants a peer that is built from source; runs only when named.
    """

    title: str
    goal: str
    command: tuple[str, ...]
    quick: tuple[str, ...]
    large: bool = False


_VAE_QUICK = ("--size", "64", "--base", "16", "--seconds", "0.1")
_VAE_GOAL = "time <= 0.40 of diffusers; peak memory <= 0.2 in strips, <= 0.5 whole"
FIGURES = {
    "mmdit": Figure(
        "One inner block of the full-width MMDiT",
        "float32 <= 1.10 of the floor and <= 0.95 of diffusers; where the processor has VNNI or "
        "AVX512_BF16, the best path <= 0.6 of diffusers' float32",
        ("mmdit.py",),
        ("--tokens", "16", "--text", "8", "--rounds", "1", "--dtype", "float32"),
    ),
    "edit-1": Figure(
        "One inner block of an edit step, one reference",
        "as above; with peak memory",
        ("mmdit.py", "--tokens", "1024", "--references", "1"),
        ("--text", "8", "--rounds", "1", "--tokens", "16"),
    ),
    "edit-3": Figure(
        "One inner block of an edit step, three references",
        "as above; with peak memory",
        ("mmdit.py", "--tokens", "1024", "--references", "3"),
        ("--text", "8", "--rounds", "1", "--tokens", "16"),
    ),
    "vision": Figure(
        "The vision tower on a picture of one megapixel",
        "time <= 0.9 of transformers",
        ("vision.py",),
        ("--side", "112", "--seconds", "0.1"),
    ),
    "again": Figure(
        "An edit again with a new seed, through the nodes",
        "0 s in the encoders",
        ("again.py",),
        ("--steps", "1"),
    ),
    "vae-1024": Figure("VAE decode, 1024x1024", _VAE_GOAL, ("vae.py",), _VAE_QUICK),
    "vae-1328": Figure(
        "VAE decode, 1328x1328", _VAE_GOAL, ("vae.py", "--size", "1328"), _VAE_QUICK
    ),
    "vae-1024-bf16": Figure(
        "VAE decode, 1024x1024, bfloat16",
        "time <= 0.25 of diffusers' float32 (the block above) where the processor has the "
        "instructions",
        ("vae.py", "--dtype", "bfloat16"),
        _VAE_QUICK,
    ),
    "load": Figure(
        "Loading eight full-width blocks",
        "peak <= the resident weights without modulation + 10 %",
        ("load.py",),
        ("--layers", "1", "--rounds", "1"),
    ),
    "quantize": Figure(
        "Quantizing two full-width blocks",
        "the process holds at most 2 GB",
        ("quantize.py",),
        ("--layers", "1", "--types", "Q8_0"),
    ),
    "unpack": Figure(
        "Unpacking packed weights",
        "native code gives the bits of torch's, faster",
        ("unpack.py",),
        ("--types", "Q4_K", "--seconds", "0.1"),
    ),
    "full-256": Figure(
        "The 20B model as Q4_K_M (13 GB), 256x256",
        "as at 512x512",
        ("full_size.py",),
        (),
        large=True,
    ),
    "full-512": Figure(
        "The 20B model as Q4_K_M (13 GB), 512x512",
        "time per step <= 1.35 of the floor, and with AVX2 only <= 0.55 of stable-diffusion.cpp, "
        "with AMX <= 0.14; measured peak within 5 % of the planned one",
        ("full_size.py", "--size", "512x512"),
        (),
        large=True,
    ),
    "full-512-cfg": Figure(
        "The 20B model as Q4_K_M (13 GB), 512x512, CFG 4",
        "time per step <= 1.75 times that of CFG 1",
        ("full_size.py", "--size", "512x512", "--cfg", "4", "--sides", "ours"),
        (),
        large=True,
    ),
    "contention": Figure(
        "The 20B model as Q4_K_M (13 GB) while another process holds one core",
        "every stage <= 2.2 times its quiet time",
        ("contention.py", "--size", "512x512"),
        (),
        large=True,
    ),
    "full-10GB": Figure(
        "The 20B model as Q4_K_M (13 GB) in 10 GB",
        "it runs, and the measured peak is within 5 % of the planned one",
        ("full_size.py", "--memory", "10GB", "--sides", "ours"),
        (),
        large=True,
    ),
    "formats": Figure(
        "Storage types by what the checker reads",
        "Q8_0 loses nothing, Q4_K_M at most 2 points",
        ("formats.py", "--fast"),
        ("--types", "Q8_0", "--prompts", "4"),
    ),
    "draw": Figure(
        "`inkstone draw` on the embedded model, a whole process",
        "<= 10 s; bfloat16's error of a whole picture with it",
        ("draw.py", "--dtype", "bfloat16"),
        ("--steps", "1", "--rounds", "1"),
    ),
}


def run(figure: Figure, args: argparse.Namespace) -> str:
    """The table that a figure's command prints."""
    file, *rest = figure.command
    call = [sys.executable, str(harness.ROOT / "bench" / file), *rest]
    call += figure.quick if args.quick else ()
    call += ["--threads", str(args.threads)]
    if file in ("load.py", "quantize.py", "full_size.py", "contention.py"):
        call += ["--folder", str(args.folder)]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(call[1:])} ended with status {done.returncode}, see above.")
    return done.stdout.strip()


def device() -> str:
    """Processor, cores, card if there is one, torch."""
    import torch

    facts = harness.machine()
    card = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{facts['cpu']} ({os.cpu_count()} cores{card}), torch {facts['torch']}"


def commit() -> str:
    """The commit of this tree, marked where files differ from it; "" outside git."""
    call = ["git", "-C", str(harness.ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(call, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return f", commit {done.stdout.strip()}" if done.returncode == 0 else ""


def append(path: Path, heading: str, parts: list[str]) -> None:
    """Adds a block; the file's head comes first where there is no file."""
    before = path.read_text("utf-8") if path.exists() else HEAD
    part = path.with_suffix(".part")
    part.write_text("\n".join([before, f"## {heading}\n", *parts]), "utf-8")
    part.replace(path)


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("figures", nargs="*", help=f"some of {', '.join(FIGURES)}; default: all")
    p.add_argument("--quick", action="store_true", help="tiny sizes, nothing appended")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="for every side")
    p.add_argument("--out", type=Path, default=RESULTS, help="the file to append to")
    p.add_argument("--folder", type=Path, help="keeps model files of benches; default: temporary")
    args = p.parse_args()
    unknown = [name for name in args.figures if name not in FIGURES]
    if unknown:
        p.error(f"no figure {', '.join(unknown)}: expected some of {', '.join(FIGURES)}")
    if args.quick and any(FIGURES[name].large for name in args.figures):
        p.error("a figure at full size has no quick form")
    began, parts = datetime.datetime.now(datetime.timezone.utc), []
    with tempfile.TemporaryDirectory() as folder:
        args.folder = args.folder or Path(folder)
        for name in args.figures or [n for n, figure in FIGURES.items() if not figure.large]:
            figure = FIGURES[name]
            print(f"{name}: {figure.title}", file=sys.stderr, flush=True)
            table = run(figure, args)
            print(table, flush=True)
            parts.append(f"### {figure.title}\n\nGoal: {figure.goal}.\n\n```\n{table}\n```\n")
    if not args.quick:
        append(args.out, f"{began:%Y-%m-%d %H:%M} UTC, {device()}{commit()}", parts)


if __name__ == "__main__":
    main()
