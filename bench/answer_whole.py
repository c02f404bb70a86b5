"""An answer by a whole Qwen2.5-VL-7B file: seconds per token, peak against the plan, and how soon a
stop answers while weights are read, while the prompt is read and while tokens are written.

The file is that of bench/answer.py with all 28 layers (4.9 GB, written once). A stop comes at a
random moment of its phase; its seconds are those from the request to the end of the call, and those
of the processor in the thread that is stopped, which other work does not lengthen.

python bench/answer_whole.py --folder /tmp/inkstone-answer --threads 1
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import answer, harness

GOAL = 1.0  # seconds
QUESTION = "ab " * 20


class _Stop(Exception):
    """What the listener raises."""


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _clocks(thread: int) -> tuple[float, float]:
    """Seconds now, and those of the processor in a thread."""
    return time.perf_counter(), time.clock_gettime(time.pthread_getcpuclockid(thread))


def stopped(
    work: Callable[[], object], phase: Callable[[str], bool], wait: float
) -> tuple[float, float]:
    """Seconds, and seconds of the processor, from a stop to the end of `work`. The stop comes
    `wait` seconds after the first beat of a phase.
    """
    from inkstone.kernels.interrupt import listen

    at: list[tuple[float, float]] = []
    timers: list[threading.Timer] = []
    mine = threading.get_ident()

    def hear(task: str, *_: float) -> None:
        if at:
            raise _Stop
        if not timers and phase(task):
            timers.append(threading.Timer(wait, lambda: at.append(_clocks(mine))))
            timers[0].start()

    listen(hear)
    try:
        work()
    except _Stop:
        wall, own = (b - a for a, b in zip(at[0], _clocks(mine)))
        return wall, own
    finally:
        listen(None)
        for timer in timers:
            timer.cancel()
    raise SystemExit("the work ended by itself: a stop came too late")


def measure(args: argparse.Namespace) -> None:
    """Prints everything."""
    import torch

    from inkstone.loaders.models import generation
    from inkstone.loaders.models.load import load_text_encoder
    from inkstone.loaders.models.weight_file import LoadOptions
    from inkstone.pipeline.answer_stages import PlannedAnswer
    from inkstone.pipeline.ask_plan import plan_answer
    from inkstone.sampling.next_token import Decoding

    torch.set_num_threads(args.threads)
    generation.STOPS = ()  # random weights may stop at once
    path = answer.file_of(args.folder, args.layers)
    question = QUESTION * args.words
    options = LoadOptions(torch.bfloat16, budget=args.memory and int(args.memory * 1e9))
    model = load_text_encoder(path, options)
    head = model.head.open()
    plan = plan_answer(PlannedAnswer(model, question, [], 0, args.tokens))
    print(plan.sentence())
    prompt = generation.TextPrompt(model.family.chat.text(question, 0))

    def write(tokens: int = args.tokens) -> generation.GeneratedText:
        return generation.generate(model, [prompt], Decoding(max_tokens=tokens))[0]

    before = harness.resident()
    first = write()
    print(
        f"{first.prompt_tokens} tokens read and {args.tokens} written in {first.seconds:.1f} s, "
        f"{first.seconds_per_token:.3f} s each; peak {harness.peak() / 1e9:.2f} GB of "
        f"{plan.peak / 1e9:.2f} planned ({harness.peak() / plan.peak - 1:+.1%}), "
        f"{before / 1e9:.2f} before"
    )
    reading = _seconds(lambda: write(1))
    owned = [model.weights, head.weights, *(f and f.weights for f in (model.forms, head.forms))]

    def load() -> None:
        for weights in owned:
            if weights is not None:
                weights.park()
        generation.ready(model, head, [len(prompt.text)], args.tokens)
        model.weights.fill()

    loading = _seconds(load)
    phases = {
        "weights are read": (load, lambda task: True, loading),
        "the prompt is read": (write, lambda task: task != "tokens", reading),
        "tokens are written": (write, lambda task: task == "tokens", first.seconds_per_token * 9),
    }
    rng = random.Random(1)
    for name, (work, phase, most) in phases.items():
        times = [stopped(work, phase, rng.uniform(0, 0.8 * most)) for _ in range(args.stops)]
        wall, own = map(max, zip(*times))
        if work is load:
            load()
        print(
            f"stopped while {name} ({most:.1f} s): {wall:.2f} s at most of {len(times)} "
            f"({own:.2f} of the processor), goal {GOAL:g}: {'met' if wall < GOAL else 'MISSED'}"
        )


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--folder", type=Path, required=True, help="where the file is kept")
    p.add_argument("--layers", type=int, default=answer.LAYERS)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--tokens", type=int, default=24, help="of the answer")
    p.add_argument("--words", type=int, default=10, help="length of the prompt, in 20s of words")
    p.add_argument("--stops", type=int, default=5, help="of each phase")
    p.add_argument("--memory", type=float, help="GB that the process may use")
    args = p.parse_args()
    facts = harness.machine()
    print(f"{facts['cpu']} ({' '.join(facts['flags'])}), {args.threads} threads")
    measure(args)
    print(f"$ {harness.command()}")


if __name__ == "__main__":
    main()
