"""Forwards that go through each layer together: the bits of forwards alone, one unpacking of each
weight, and the memory that is planned for them.
"""

from __future__ import annotations

import weakref
from collections import Counter
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from inkstone.kernels import linear
from inkstone.kernels.block_streaming import ask, in_step
from inkstone.kernels.configs import MMDiTConfig, SingleStreamConfig
from inkstone.kernels.control_instantx import Spread
from inkstone.kernels.forward import NO_HOOKS, ForwardHooks, ForwardSize, Inputs
from inkstone.kernels.linear import Linear
from inkstone.kernels.lora import attached
from inkstone.kernels.mmdit import MLP, MMDiT
from inkstone.kernels.modulation import Modulation
from inkstone.kernels.prefix_store import PrefixStore
from inkstone.kernels.references import ReferenceContext, References
from inkstone.kernels.shared_modulation import SharedModulation
from inkstone.kernels.single_block import SwiGLU
from inkstone.kernels.single_stream import SingleStream
from inkstone.kernels.triton.backend import random_weight
from inkstone.quant.fp8 import E4M3, Fp8Storage
from inkstone.quant.int_quant import RowScaledStorage
from inkstone.quant.storage import PlainStorage, Storage

from ..support.allocated import allocated
from ..support.oracle import fill

FIRST = MMDiTConfig(layers=3, heads=2, head_dim=128, joint=64, ff=768, axes=(16, 56, 56))
SECOND = SingleStreamConfig(3, 2, 128, 64, 48, 768, (16, 56, 56))
FAMILIES = {"first": (MMDiT, FIRST), "2.1": (SingleStream, SECOND)}
TEXTS = (11, 3, 7)
GRID = (1, 4, 6)


def q4_k(weight: Tensor) -> Storage:
    return random_weight("Q4_K", *weight.shape)


def fp8(weight: Tensor) -> Storage:
    return Fp8Storage(weight.to(E4M3), E4M3, torch.tensor(1.5))


def int8(weight: Tensor) -> Storage:
    scale = weight.abs().amax(1, keepdim=True) / 127
    codes = (weight / scale).round().to(torch.int8)
    return RowScaledStorage("int8", codes, scale, 8, 0)


FORMATS = {
    "Q4_K": (q4_k, torch.float32),
    "Q4_K in bf16": (q4_k, torch.bfloat16),
    "fp8": (fp8, torch.float32),
    "int8": (int8, torch.bfloat16),
    "bf16 in fp32": (lambda weight: PlainStorage(weight.bfloat16()), torch.float32),
    "bf16": (None, torch.bfloat16),
    "fp32": (None, torch.float32),
}


def network(family: str, form: str, **more):
    """A network with random weights, those of its blocks in a format, and its modulation."""
    kind, config = FAMILIES[family]
    torch.manual_seed(5)
    pack, dtype = FORMATS[form]
    whole = fill(kind(config)).requires_grad_(False)
    for layer in whole.transformer_blocks.modules():
        if isinstance(layer, Linear) and pack is not None:
            layer.hold(pack(layer.weight))
    for layer in whole.modules():
        for name, value in layer._parameters.items():
            if value is not None:
                layer._parameters[name] = nn.Parameter(value.to(dtype), requires_grad=False)
    return whole, dtype, rows_of(family, config, dtype)


def rows_of(family: str, config, dtype):
    def rows(n: int) -> Tensor:
        return (torch.randn(1, n, config.width) * 0.3).to(dtype)

    if family == "2.1":
        return SharedModulation(rows(4), rows(4), rows(1))
    img = [rows(6) for _ in range(config.layers)]
    txt = [*(rows(6) for _ in range(config.layers - 1)), rows(2)]
    return Modulation(img, txt, rows(2), [rows(6) for _ in range(config.layers)])


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def pieces(monkeypatch) -> None:
    """Several pieces of each weight, on both threads."""
    monkeypatch.setattr(linear, "UNPACKED", 1 << 16)
    monkeypatch.setattr(linear, "_LARGE", 1 << 10)


class Passes:
    """Several forwards with texts of their own. kind: what they have besides."""

    def __init__(self, family: str, whole, dtype, mod, kind: str = "") -> None:
        config = whole.config
        g = torch.Generator().manual_seed(3)
        self.network = whole
        self.img = torch.randn(2, 24, 64, generator=g).to(dtype)
        self.texts = [torch.randn(1, n, config.joint, generator=g).to(dtype) for n in TEXTS]
        self.mod, self.kind, self.first = mod, kind, family == "first"
        self.clean = torch.randn(1, 12, 64, generator=g).to(dtype)
        self.added = torch.randn(2, 24, config.width, generator=g)
        self.stores = [PrefixStore(config.layers) for _ in TEXTS]

    def walks(self, plain=NO_HOOKS):
        """The walks of one step. plain: hooks of those that have none of their own."""
        grids, slots, context = [GRID], (), ReferenceContext()
        if self.kind == "references":
            grids, slots = [GRID, (1, 2, 6)], (2,)
            context = ReferenceContext(References(self.clean, fixed=self.first))
        for number, text in enumerate(self.texts):
            hooks = plain
            if self.kind == "controls" and number == 1:
                hooks = ForwardHooks(after=[Spread([self.added])])
            if self.kind == "ends early":
                hooks = ForwardHooks(shortcut=Ends(number, self.added))
            inputs = Inputs(
                img=self.img.clone(),
                txt=text.expand(2, -1, -1),
                modulation=self.mod,
                grids=grids,
                references=context,
                slots=slots,
                prefix=self.stores[number] if self.kind == "store" else None,
            )
            yield self.network.walk(inputs, hooks)

    def apart(self) -> list[Tensor]:
        return [in_step(self.network, [walk])[0] for walk in self.walks()]

    def together(self, shared: bool = True) -> list[Tensor]:
        return in_step(self.network, list(self.walks()), shared)


class Ends:
    """A step cache that ends the first forward behind block 0, the second before it."""

    def __init__(self, number: int, answer: Tensor) -> None:
        self.number, self.answer = number, answer

    def before(self, x, modulated):
        modulated()
        return self.answer.clone() if self.number == 1 else None

    def behind_first(self, x):
        return x[:, :24] + self.answer if self.number == 0 else None

    def behind_last(self, x):
        assert self.number == 2


def same(got: list[Tensor], want: list[Tensor]) -> None:
    for number, (one, two) in enumerate(zip(got, want, strict=True)):
        error = (one.float() - two.float()).abs().max().item()
        assert torch.equal(one, two), f"forward {number}: {error:.2e}"
    assert got[0].shape != got[1].shape or not torch.equal(got[0], got[1]), "texts change nothing"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_together_is_apart(monkeypatch, family, form):
    pieces(monkeypatch)
    passes = Passes(family, *network(family, form))
    with torch.inference_mode():
        same(passes.together(), passes.apart())


@pytest.mark.parametrize("kind", ["references", "controls", "store", "ends early", "lora", "long"])
@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_they_have_besides(monkeypatch, family, kind):
    monkeypatch.setattr(MLP, "ROWS", 5 if kind == "long" else 1024)
    monkeypatch.setattr(SwiGLU, "ROWS", 5 if kind == "long" else 1024)
    pieces(monkeypatch)
    whole, dtype, mod = network(family, "Q4_K")
    name = "transformer_blocks.1.attn.to_q"
    branches = {name: lambda x, y: y + 3 * x.flip(-1)} if kind == "lora" else {}
    with torch.inference_mode(), attached(whole, branches):
        passes, again = (Passes(family, whole, dtype, mod, kind) for _ in range(2))
        for _ in range(2):  # with a store the second step reads it
            same(passes.together(), again.apart())
        if kind == "store":
            passes.stores[1].clear()  # one of them fills it again
            same(passes.together(), again.apart())
        if kind == "lora":
            plain = Passes(family, whole, dtype, mod).together()
    if kind == "lora":
        with torch.inference_mode():
            assert not torch.equal(plain[0], Passes(family, whole, dtype, mod).together()[0])


def test_training_goes_the_same_way():
    """With gradients, and none of them differs."""
    whole, dtype, mod = network("first", "fp32")
    grads = []
    for run in ("together", "apart"):
        whole.requires_grad_(True)
        whole.zero_grad()
        sum(v.square().sum() for v in getattr(Passes("first", whole, dtype, mod), run)()).backward()
        grads.append({n: p.grad.clone() for n, p in whole.named_parameters()})
    for name, grad in grads[0].items():
        error = ((grad - grads[1][name]).norm() / grad.norm()).item()
        assert error < 1e-6, f"{name}: {error:.1e}"


@pytest.mark.parametrize("backend", ["chunks", "whole"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_is_unpacked_once(monkeypatch, family, backend):
    """Also with texts of different lengths; in the first step of 2.1 once more for the prefix."""
    unpacked: Counter = Counter()
    rows_into = Fp8Storage.rows_into

    def count(self, start, out):
        unpacked[id(self)] += len(out)
        return rows_into(self, start, out)

    monkeypatch.setattr(Fp8Storage, "rows_into", count)
    pieces(monkeypatch)
    whole, dtype, mod = network(family, "fp8")
    passes = Passes(family, whole, dtype, mod, "store")
    storages = [m.storage for m in whole.transformer_blocks.modules() if hasattr(m, "storage")]
    with torch.inference_mode(), linear.force_packed(backend):
        passes.together()
        first = {id(s): unpacked[id(s)] / s.shape[0] for s in storages}
        unpacked.clear()
        passes.together()
        times = {unpacked[id(s)] / s.shape[0] for s in storages}
        unpacked.clear()
        passes.together(shared=False)
        apart = {unpacked[id(s)] / s.shape[0] for s in storages}
    assert times == {1.0}, times
    assert apart == {float(len(TEXTS))}, apart
    twice = 2 if family == "2.1" else 1
    assert set(first.values()) <= {1.0, twice} and max(first.values()) == twice, first


def test_other_lengths_meet_again(monkeypatch):
    """A forward whose MLP takes more chunks is waited for."""
    calls: Counter = Counter()
    each = Linear.each

    def count(self, xs, gelu=False):
        calls[id(self)] += 1
        return each(self, xs, gelu)

    monkeypatch.setattr(Linear, "each", count)
    monkeypatch.setattr(MLP, "ROWS", 4)
    whole, dtype, mod = network("first", "Q4_K")
    with torch.inference_mode():
        Passes("first", whole, dtype, mod).together()
    block = whole.transformer_blocks[0]
    up, _, down = block.txt_mlp.net
    assert calls[id(up.proj)] == calls[id(down)] == 3, "11 tokens of the longest text"
    img = block.img_mlp.net
    assert calls[id(img[0].proj)] == calls[id(img[2])] == 6, "24 tokens of each image"
    assert calls[id(block.attn.to_k)] == calls[id(block.attn.to_add_out)] == 1


def test_nothing_is_held_while_others_wait():
    """A walk's tensor is freed when its product is there, and the product when it is dropped."""
    layer, alive = Linear(4, 4).requires_grad_(False), []

    class Network:
        stream, transformer_blocks = None, [None]

    def walk(number: int):
        yield None
        x = torch.zeros(1, 2, 4)
        tensors.append(weakref.ref(x))
        y = ask(layer, x)
        del x
        y = yield from y
        tensors.append(weakref.ref(y))
        alive.append([one() is not None for one in tensors])
        del y
        alive.append([one() is not None for one in tensors])
        return number

    tensors: list[weakref.ref] = []
    with torch.inference_mode():
        assert in_step(Network(), [walk(0), walk(1)]) == [0, 1]
    assert alive == [
        [False, False, True],
        [False, False, False],
        [False, False, False, True],
        [False, False, False, False],
    ], alive


@pytest.mark.parametrize("tokens", [256, 1280])
@pytest.mark.parametrize("form", ["Q4_K", "Q4_K in bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_peak_is_within_the_plan(family, form, tokens):
    """A forward takes no more than its plan, every further one what is planned for it."""
    whole, dtype, mod = network(family, form)
    img, text = torch.randn(1, tokens, 64), torch.randn(1, 40, whole.config.joint)
    inputs = Inputs(img.to(dtype), text.to(dtype), mod, [(1, 32, tokens // 32)])
    peaks = []
    for count in (1, 2, 3):
        with torch.inference_mode():
            run = partial(in_step, whole, [whole.walk(inputs) for _ in range(count)])
            peaks.append(allocated(run))
    size = ForwardSize(target=tokens, prefix=40, batch=1, rows=1)
    assert peaks[0] <= whole.activation_bytes(size, dtype), peaks
    more = whole.waiting_bytes(size, dtype)
    for count in (1, 2):
        growth = (peaks[count] - peaks[0]) / count
        assert growth <= more < 2 * growth, (peaks, more)


@pytest.mark.parametrize("lengths", [(600, 700), (600, 40), (3, 2)])
def test_pieces_are_those_of_a_product_alone(monkeypatch, lengths):
    """Few tokens take other pieces than many where torch unpacks: then they do not share them."""
    monkeypatch.setattr(RowScaledStorage, "compiled", lambda *_: False)
    pieces(monkeypatch)
    torch.manual_seed(2)
    layer = Linear(256, 512).requires_grad_(False)
    layer.hold(int8(torch.randn(512, 256)))
    xs, starts = [torch.randn(1, n, 256) for n in lengths], []
    rows_into = RowScaledStorage.rows_into

    def note(self, start, out):
        starts.append(start)
        return rows_into(self, start, out)

    monkeypatch.setattr(RowScaledStorage, "rows_into", note)
    with torch.inference_mode():
        alone = [layer(x) for x in xs]
        single = sorted(starts)
        starts.clear()
        both = layer.each(xs)
    same(both, alone)
    once = len(set(single)) if lengths != (600, 40) else len(single)
    assert 2 <= once == len(starts), (single, starts)
