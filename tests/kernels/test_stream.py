"""Passes that share one reading of streamed weights: the same bits, each block read once a step."""

from collections import Counter
from concurrent.futures import wait
from types import SimpleNamespace

import pytest
import torch

from inkstone.kernels.block_streaming import in_step
from inkstone.kernels.configs import MMDiTConfig
from inkstone.kernels.control_instantx import Spread
from inkstone.kernels.forward import ForwardHooks, Inputs
from inkstone.kernels.mmdit import MMDiT
from inkstone.kernels.modulation import modulation
from inkstone.kernels.references import ReferenceContext, References
from inkstone.loaders.memory import residency
from inkstone.loaders.memory.residency import Prefetcher, Residency
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.request import Hooks, Request
from inkstone.sampling.run_memory import working_bytes
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas

from .test_mmdit import CONFIGS, pair

GRID = (1, 5, 7)


class Counting:
    """A stream that only notes what it is asked for."""

    evicting = True

    def __init__(self) -> None:
        self.entered: list[int] = []
        self.stops: list[int | None] = []

    def enter(self, index: int, stop: int | None = None, back: bool = False) -> None:
        self.entered.append(index)
        self.stops.append(stop)

    def close(self) -> None:
        """Nothing to let go of."""


def network(name: str) -> tuple[MMDiT, MMDiTConfig, object]:
    config = CONFIGS[name]
    _, ours, state = pair(config)
    table = modulation(state.__getitem__, torch.tensor([0.7, 0.0]), config.layers)
    return ours, config, table


@pytest.mark.parametrize("gradients", [False, True])
def test_behind_the_last_block_nothing_is_read_for_a_backward_pass(gradients):
    """It goes back from there; the next forward begins with the first streamed block."""

    def walk():
        for _ in range(3):
            yield
        return torch.zeros(())

    net = SimpleNamespace(stream=Counting(), transformer_blocks=[None] * 3)
    with torch.set_grad_enabled(gradients):
        in_step(net, [walk()])
    assert net.stream.entered == [0, 1, 2]
    assert net.stream.stops == [None, None, 0 if gradients else None]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("references", [False, True])
def test_passes_together_are_passes_alone(name, references):
    ours, config, table = network(name)
    torch.manual_seed(3)
    img = torch.randn(2, 35, 64)
    texts = [torch.randn(2, length, config.joint) for length in (11, 3, 1)]
    tokens = torch.randn(1, 12, 64)
    grids = [GRID, (1, 3, 4)] if references else [GRID]
    mod = (table.with_references() if references else table).step(0)
    added = [torch.randn(2, 35, config.width)]

    def passes():
        """(inputs, hooks) of each text, with one object of references for all of them."""
        shared = ReferenceContext(References(tokens, fixed=True) if references else None)
        hooks = ForwardHooks(), ForwardHooks(after=[Spread(added)]), ForwardHooks()
        inputs = [Inputs(img.clone(), text, mod, grids, references=shared) for text in texts]
        return zip(inputs, hooks)

    with torch.no_grad():
        one_by_one = [ours(*one) for one in passes()]
        ours.stream = Counting()
        together = in_step(ours, [ours.walk(*one) for one in passes()])
    assert ours.stream.entered == list(range(config.layers))
    for alone, with_others in zip(one_by_one, together):
        assert torch.equal(alone, with_others), f"{(alone - with_others).abs().max():.2e}"


def test_every_pass_is_asked_before_a_block_is_read():
    """A pass may stop the work: then nothing more is read."""
    ours, config, table = network("five layers")
    ours.stream, calls = Counting(), []

    def stop(block: int) -> None:
        calls.append(block)
        if len(calls) == 5:
            raise KeyboardInterrupt

    img, txt = torch.zeros(1, 35, 64), torch.zeros(1, 2, config.joint)
    inputs = Inputs(img, txt, table.step(0), [GRID])
    walks = [ours.walk(inputs, ForwardHooks(stop)) for _ in range(2)]
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        in_step(ours, walks)
    assert calls == [0, 0, 1, 1, 2] and ours.stream.entered == [0, 1]


@pytest.fixture
def embedded(monkeypatch):
    monkeypatch.setattr(residency, "_all", type(residency._all)())
    return load_diffusion_model(EMBEDDED_FOLDER, LoadOptions(wait=True))


STEPS = 3


def latents(model, hooks):
    g = torch.Generator().manual_seed(5)
    positive, negative = torch.randn(1, 12, 128, generator=g), torch.randn(1, 2, 128, generator=g)
    request = Request(96, 64, sigmas(LINEAR, STEPS, 24), seed=3, cfg=3.0, batch=2)
    working = working_bytes(model, request, {"positive": positive, "negative": negative})
    return denoise(model, positive, negative, request, hooks), working


@pytest.mark.parametrize("resident", [0, 2])
def test_cfg_reads_each_block_once_a_step(embedded, monkeypatch, resident):
    """Bit for bit the picture of resident weights, and no block is read twice in a step."""
    monkeypatch.setattr(Residency, "_room", lambda *_: 1 << 40)
    whole, working = latents(embedded, Hooks())
    embedded.weights.park()
    rest, groups = embedded.weights.sizes
    room = rest + sum(groups[:resident]) + 2 * max(groups[resident:]) + working
    monkeypatch.setattr(Residency, "_room", lambda *_: room)
    reads, blocks = Counter(), []
    fetch = Prefetcher._read

    def count(self, index):
        reads[index] += 1
        return fetch(self, index)

    monkeypatch.setattr(Prefetcher, "_read", count)
    streamed, _ = latents(
        embedded, Hooks(on_block=lambda step, block: blocks.append((step, block)))
    )
    wait(embedded.network.stream._pending.values())  # on a busy machine they begin late
    first = embedded.weights.placement.resident
    assert embedded.weights.placement.streamed and first >= resident
    assert torch.equal(streamed, whole), f"{(streamed - whole).abs().max():.2e}"
    # the first block to be streamed is fetched ahead for a step that does not come
    want = {i: STEPS + (i == first) for i in range(first, len(groups))}
    assert reads == want | dict.fromkeys(range(first), 1), reads
    assert blocks == [(s, b) for s in range(STEPS) for b in range(len(groups)) for _ in range(2)]
