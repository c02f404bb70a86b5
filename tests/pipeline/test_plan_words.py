"""The words of a memory plan are compared with what the run then does: random models, budgets and
states. Weights are zeros in sparse files; placements, unloadings and sizes are the real ones.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from inkstone.controlnet.denoise import denoise_with_controls
from inkstone.errors import InkstoneError
from inkstone.headless.cli.main import main
from inkstone.kernels import memory
from inkstone.kernels.configs import MMDiTConfig, TextConfig
from inkstone.loaders.arch import expected_tensors
from inkstone.loaders.lora.adapters import Adapter, apply_loras
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.memory import residency
from inkstone.loaders.memory.placement import Placement
from inkstone.loaders.memory.residency import Residency
from inkstone.loaders.models.bundle import Bundle
from inkstone.loaders.models.control import load_control
from inkstone.loaders.models.diffusion_model import DiffusionModel
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_diffusion_model, load_text_encoder
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline import memory_plan
from inkstone.pipeline.memory_plan import Plan, PlanRequest, plan
from inkstone.sampling.request import Control, Request
from inkstone.sampling.run_memory import passes_words
from inkstone.sampling.schedule import LINEAR, sigmas

from ..support.oracle import save_file
from ..support.sparse import sparse_file

PROGRAM = 3_000_000  # bytes that the process takes without weights
WORDS = ("a cat", "a lake in the fog and a small boat in front of it, seen from the shore")


@dataclass
class Machine:
    """The memory of the machine as the loaders measure it, and what they do with it."""

    total: int = 1 << 40
    settled: list[tuple[Residency, Placement]] = field(default_factory=list)
    gone: dict[tuple[Residency, bool], str] = field(default_factory=dict)  # (who, worked): when
    settling: str = ""  # the model at it
    peak: int = 0
    together: bool = False  # the passes of a step go through each layer together

    def held(self) -> int:
        return sum(weights.in_memory for weights in residency.residencies())

    def clear(self) -> None:
        self.settled.clear(), self.gone.clear()
        self.peak = 0

    def placement(self, weights: Residency) -> Placement | None:
        """The tightest of a run."""
        placements = [p for who, p in self.settled if who is weights]
        return min(placements, key=lambda p: p.resident, default=None)


@pytest.fixture
def machine(monkeypatch):
    one, settle, park = Machine(), Residency.settle, Residency.park
    monkeypatch.setattr(residency, "_all", type(residency._all)())
    monkeypatch.setattr(residency, "used_bytes", lambda device: PROGRAM + one.held())
    monkeypatch.setattr(memory_plan, "used_bytes", lambda device: PROGRAM + one.held())
    free = lambda device: one.total - PROGRAM - one.held()  # noqa: E731
    monkeypatch.setattr(residency, "free_bytes", free)

    def settled(self, budget=None, working=0, keep=(), after=()):
        one.settling = self.name
        try:
            placement = settle(self, budget, working, keep, after)
        finally:
            one.settling = ""
        one.settled.append((self, placement))
        reserved = sum(weights.reserved for weights in residency.residencies())
        one.peak = max(one.peak, 0 if after else reserved + working)  # after: it has yet to work
        return placement

    def parked(self):
        if self.reserved:
            when = (
                f"before the {one.settling} is loaded" if one.settling else "when its work is done"
            )
            one.gone[self, any(who is self for who, _ in one.settled)] = when
        park(self)

    ready = DiffusionModel.ready

    def readied(self, *sizes):
        one.together = ready(self, *sizes)
        return one.together

    monkeypatch.setattr(DiffusionModel, "ready", readied)
    monkeypatch.setattr(Residency, "settle", settled)
    monkeypatch.setattr(Residency, "park", parked)
    return one


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield tmp_path_factory.mktemp("models")
    for model in _opened.values():
        model.weights.park()
    _opened.clear()


def mmdit(folder: Path, layers: int, heads: int) -> Path:
    path = folder / f"mmdit {layers} {heads}.safetensors"
    config = MMDiTConfig(layers=layers, heads=heads, joint=128, ff=64 * heads)
    return path if path.exists() else sparse_file(path, expected_tensors.mmdit_layout(config))


def control(folder: Path, layers: int, heads: int) -> Path:
    path = folder / f"control {layers} {heads}.safetensors"
    config = MMDiTConfig(layers=layers, heads=heads, joint=128, ff=64 * heads)
    return path if path.exists() else sparse_file(path, expected_tensors.controlnet_layout(config))


def encoder(folder: Path, layers: int, ff: int) -> Path:
    path = folder / f"text {layers} {ff}.safetensors"
    config = TextConfig(layers, width=128, heads=1, kv_heads=1, head_dim=128, ff=ff, vocab=512)
    shapes = {f"model.{name}": s for name, s in expected_tensors.text_layout(config).items()}
    return path if path.exists() else sparse_file(path, shapes)


@lru_cache(maxsize=8)
def lora(folder: Path, layers: int, heads: int, rank: int):
    path = folder / f"lora {layers} {heads} {rank}.safetensors"
    width, tensors = 128 * heads, {}
    for n in range(layers):
        name = f"transformer_blocks.{n}.attn.to_k"
        tensors[f"{name}.lora_down.weight"] = torch.ones(rank, width, dtype=torch.bfloat16)
        tensors[f"{name}.lora_up.weight"] = torch.ones(width, rank, dtype=torch.bfloat16)
    save_file(tensors, path)
    return load_lora(path)


_numbers = itertools.count()  # no prompt comes twice: it would not be encoded again
_opened: dict[tuple, object] = {}


def opened(kind: str, file: Path, number: int = 0):
    """The model of a file, opened once: `number` of them."""
    key = (kind, file, number)
    return _opened[key] if key in _opened else _opened.setdefault(key, read(kind, file))


def read(kind: str, file: Path):
    waiting = LoadOptions(torch.float32, wait=True)
    if kind == "text":
        return load_text_encoder(file, waiting, EMBEDDED_FOLDER / "tokenizer")
    return (load_control if kind == "control" else load_diffusion_model)(file, waiting)


def entered(model):
    """The model with nothing in memory, known to the machine."""
    model.weights.park()
    residency._all.add(model.weights)
    return model


@dataclass
class Case:
    """Models and a drawing."""

    bundle: Bundle
    controls: list
    others: list  # models in the same process that do not draw
    size: tuple[int, int]
    steps: int
    cfg: float
    batch: int
    prompts: tuple[str, str]
    once: bool
    packed: bool = False  # the model says so

    def request(self, memory: int | None) -> PlanRequest:
        return PlanRequest(
            size=self.size,
            steps=self.steps,
            batch=self.batch,
            memory=memory,
            once=self.once,
            controls=self.controls,
            cfg=self.cfg,
            prompts=self.prompts if self.bundle.text_encoder else (),
        )

    def with_budget(self, memory: int | None) -> Case:
        """The same models with this limit: networks and weights are shared."""
        text, model = self.bundle.text_encoder, self.bundle.model
        text = text and replace(text, budget=memory)
        return replace(self, bundle=Bundle(replace(model, budget=memory), text, None))

    def run(self) -> None:
        """What the nodes do."""
        text, model = self.bundle.text_encoder, self.bundle.model
        texts = [torch.zeros(1, 64, 128)] * 2
        if text is not None:
            halves = self.prompts[: 2 if self.cfg > 1 else 1]
            texts = [text.encode(prompt).states for prompt in halves]
            if self.once:
                text.weights.park()
        w, h = self.size
        picture = torch.zeros(1, 16, 1, h // 8, w // 8)
        branches = tuple(Control(branch, picture) for branch in self.controls)
        request = Request(
            w, h, sigmas(LINEAR, self.steps, w * h // 256), batch=self.batch, cfg=self.cfg
        )
        negative = texts[1] if self.cfg > 1 else None
        denoise_with_controls(model, texts[0], negative, request, branches)


def random_case(draw: random.Random, folder: Path) -> Case:
    layers, heads = draw.randint(2, 6), draw.randint(1, 2)
    model, text = entered(opened("model", mmdit(folder, layers, heads))), None
    if draw.random() < 0.8:
        file = encoder(folder, draw.randint(2, 5), draw.choice((64, 256, 1024)))
        text = entered(opened("text", file))
    if draw.random() < 0.3:
        file = lora(folder, layers, heads, draw.choice((4, 64)))
        model, text, _ = apply_loras(model, text, [Adapter(file)])
    controls, others = [], []
    for n in range(draw.choice((0, 0, 1, 2))):
        controls.append(entered(opened("control", control(folder, draw.randint(1, 3), heads), n)))
    for n in range(1, 1 + draw.choice((0, 0, 1, 2))):
        others.append(entered(opened("model", mmdit(folder, draw.randint(2, 6), 1), n)))
    return Case(
        bundle=Bundle(model, text, None),
        controls=controls + (controls[:1] if draw.random() < 0.2 else []),
        others=others,
        size=(16 * draw.randint(2, 5), 16 * draw.randint(2, 5)),
        steps=draw.randint(1, 2),
        cfg=draw.choice((1.0, 3.0)),
        batch=draw.randint(1, 2),
        prompts=tuple(f"{draw.choice(WORDS)} {next(_numbers)}" for _ in range(2)),
        once=draw.random() < 0.4,
        packed=draw.random() < 0.6,
    )


def whole(case: Case) -> int:
    """Bytes of all weights of a case."""
    text = [case.bundle.text_encoder] if case.bundle.text_encoder else []
    return sum(x.weights.nbytes for x in (*text, case.bundle.model, *case.controls, *case.others))


def prepare(draw: random.Random, case: Case) -> None:
    """Brings the process into some state: others loaded, some of the models in memory already."""
    models = [*case.others, case.bundle.model, *case.controls]
    models += [case.bundle.text_encoder] if case.bundle.text_encoder else []
    draw.shuffle(models)
    for model in models[: draw.randint(0, len(models))]:
        try:
            model.weights.settle(PROGRAM + int(whole(case) * draw.uniform(0.3, 1.2)))
        except InkstoneError:
            continue
        if draw.random() < 0.5:
            model.weights.fill()


def expected(case: Case, machine: Machine, before: dict[Residency, int]) -> str:
    """The verdict as this test understands it, from what was done."""
    text, model = case.bundle.text_encoder, case.bundle.model
    order = [text.weights] if text else []
    order += list(dict.fromkeys(c.weights for c in case.controls)) + [model.weights]
    places = {weights: machine.placement(weights) for weights in order}
    parts = []
    if any(p.streamed for p in places.values()) or any((w, True) in machine.gone for w in order):
        for weights, place in places.items():
            part = f"{weights.name}: {place.words()}"
            if (weights, False) in machine.gone:
                part += f", loaded again since it is unloaded {machine.gone[weights, False]}"
            if (weights, True) in machine.gone:
                part += f", is unloaded {machine.gone[weights, True]}"
            parts.append(part)
    else:
        parts.append("all resident" if text else "diffusion model alone: all resident")
    for weights, size in before.items():
        if weights not in order:
            when = machine.gone.get((weights, False))
            end = f"is unloaded {when}" if when else "stays"
            parts.append(f"{weights.name} in memory now ({size / 1e9:.2f} GB) {end}")
    return "; ".join(parts)


def compare(case: Case, machine: Machine, made: Plan) -> None:
    """Runs and compares."""
    reserved = {w: w.reserved for w in residency.residencies() if w.reserved}
    machine.clear()
    case.run()
    main = machine.placement(case.bundle.model.weights)
    assert made.diffusion_model_placed == main.words()
    assert made.diffusion_model == main.nbytes
    if case.bundle.text_encoder:
        placed = machine.placement(case.bundle.text_encoder.weights)
        assert made.text_encoder_placed == placed.words()
    controls = dict.fromkeys(machine.placement(c.weights).words() for c in case.controls)
    assert made.controls_placed == " and ".join(controls)
    alone = f"; diffusion model alone: {made.diffusion_model_alone}"
    verdict = made.verdict.replace(alone, "")
    assert (alone in made.verdict) == (made.diffusion_model_alone != main.words())
    want = expected(case, machine, reserved)
    assert sorted(verdict.split("; ")) == sorted(want.split("; ")), (verdict, want)
    assert made.peak - PROGRAM == machine.peak, (made.peak - PROGRAM, machine.peak)
    assert made.verdict in made.sentence()
    shared = case.bundle.model.packed and case.cfg > 1
    assert made.passes == (passes_words(2, machine.together) if shared else "")
    assert made.sentence().endswith(made.passes or made.verdict)


def try_case(seed: int, folder: Path, machine: Machine, ways: Counter | None = None) -> str:
    """One random case; returns what it came to. ways: counts how passes went."""
    draw = random.Random(seed)
    residency._all.clear()  # earlier cases
    case = random_case(draw, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiffusionModel, "packed", case.packed)
        end = end_of(case, draw, machine)
    if ways is not None and case.packed and case.cfg > 1 and end != "does not fit":
        ways[end, machine.together] += 1
    return end


def end_of(case: Case, draw: random.Random, machine: Machine) -> str:
    """Draws a case with a random amount of memory, and compares it with its plan."""
    prepare(draw, case)
    machine.total = 1 << 40
    least = plan(case.bundle, case.request(None)).least
    amount = least + int(whole(case) * draw.uniform(-0.15, 1.2))
    limit = amount if draw.random() < 0.7 else None
    machine.total = 1 << 40 if limit else amount
    case = case.with_budget(limit)
    try:
        made = plan(case.bundle, case.request(limit))
    except InkstoneError as error:
        assert "needs at least" in str(error)
        with pytest.raises(InkstoneError, match="even when streamed"):
            case.run()
        return "does not fit"
    compare(case, machine, made)
    if "streamed" in made.verdict:
        return "streamed"
    return "all resident" if "all resident" in made.verdict else "one after the other"


@pytest.mark.parametrize("seed", range(8))
def test_words_are_what_the_run_does(seed, folder, machine):
    try_case(seed, folder, machine)


@pytest.mark.slow
def test_words_are_what_200_runs_do(folder, machine):
    ways: Counter = Counter()
    ends = [try_case(seed, folder, machine, ways) for seed in range(100, 300)]
    kinds = ("does not fit", "streamed", "one after the other", "all resident")
    counts = {kind: ends.count(kind) for kind in kinds}
    assert min(counts.values()) >= 15 and sum(counts.values()) == 200, counts
    apart = sum(count for (_, together), count in ways.items() if not together)
    assert min(ways["all resident", True], ways["one after the other", True]) > 10, ways
    assert ways["streamed", True] > 1 and apart > 3, ways


def test_the_least_is_the_least(folder, machine):
    """With as much as a plan says that is needed the draw runs; with a byte less it does not."""
    draw = random.Random(7)
    for _ in range(12):
        residency._all.clear()
        case = random_case(draw, folder)
        prepare(draw, case)
        least = plan(case.bundle, case.request(None)).least
        for one in residency.residencies():
            one.park()
        with pytest.raises(InkstoneError, match="needs at least"):
            plan(case.bundle, case.request(least - 1))
        enough = case.with_budget(least)
        compare(enough, machine, plan(enough.bundle, case.request(least)))


def test_a_limit_above_what_is_free_is_no_room(folder, machine, monkeypatch):
    """And the advice says what is in the way: the limit, or what other programs take."""
    residency._all.clear()
    case = random_case(random.Random(3), folder)
    least = plan(case.bundle, case.request(None)).least
    free = least + least // 10
    machine.total = free
    case = case.with_budget(1 << 40)
    made = plan(case.bundle, case.request(1 << 40))
    assert made.peak <= made.budget <= free
    compare(case, machine, made)
    for one in residency.residencies():
        one.park()
    machine.total = least // 2
    rooms = {"": least // 2, "the memory limit of the container": 1 << 40}
    monkeypatch.setattr(memory, "_rooms", lambda: rooms)
    others = "more must be free: close other programs, draw a smaller picture"
    raised = "more must be free: raise the memory limit of the container, draw a smaller picture"
    for limit, contained, words in (
        (1 << 40, False, others),
        (1 << 40, True, raised),
        (least // 4, False, "Set --memory to"),
        (1, True, "Set --memory to"),
    ):
        rooms["the memory limit of the container"] = 1 if contained else 1 << 40
        with pytest.raises(InkstoneError, match=words):
            plan(case.bundle, case.request(limit))
        with pytest.raises(InkstoneError, match=words):
            case.with_budget(limit).run()


def test_a_limit_below_the_program_is_what_is_in_the_way(capsys):
    """However little it leaves: not the memory that other programs take."""
    for limit in ("0.01GB", "0.1GB"):
        assert main(["draw", "a red circle", "--memory", limit, "--quiet"]) == 1
        text = capsys.readouterr().err
        assert "Set --memory to" in text and "must be free" not in text, text
