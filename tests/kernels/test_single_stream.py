"""The single-stream network of Qwen-Image-2.1 against diffusers' class, float32, random weights."""

import math

import pytest
import torch

from inkstone.kernels.block_streaming import in_step
from inkstone.kernels.configs import QWEN_IMAGE_21
from inkstone.kernels.forward import ForwardHooks, Inputs
from inkstone.kernels.prefix_store import PrefixStore, PrefixStores
from inkstone.kernels.references import NO_REFERENCES, ReferenceContext, References
from inkstone.kernels.shared_modulation import shared_modulation
from inkstone.kernels.single_block import SwiGLU
from inkstone.kernels.single_stream import SingleStream
from inkstone.kernels.stream_context import reading_order

from ..support.oracle import measured, relative
from ..support.single_stream import CONFIG, WIDE, reference_velocity, tiny_pair

# name -> (text tokens, grids of the references, text tokens before each)
CASES = {
    "text to image": (9, [], ()),
    "one reference": (11, [(1, 4, 6)], (5,)),
    "two references": (14, [(1, 4, 6), (1, 8, 2)], (3, 8)),
    "four references": (23, [(1, 2, 6), (1, 6, 6), (1, 10, 4), (1, 2, 2)], (4, 9, 13, 20)),
    "adjacent references": (10, [(1, 4, 4), (1, 6, 2), (1, 2, 2)], (4, 4, 4)),
    "a reference first, one last": (7, [(1, 4, 4), (1, 2, 8)], (0, 7)),
    "sides of an odd half": (8, [(1, 6, 10), (1, 14, 2)], (2, 6)),
}


def inputs_of(case, config, batch, target=(1, 6, 4), sigma=(0.7,), one_text=True, prefix=None):
    text, grids, slots = CASES[case]
    g = torch.Generator().manual_seed(4)
    tokens = math.prod(target)
    txt = torch.randn(1 if one_text else batch, text, config.joint, generator=g)
    txt = txt.expand(batch, -1, -1)
    clean = torch.randn(1, sum(h * w for _, h, w in grids), config.channels, generator=g)
    img = torch.randn(batch, tokens, config.channels, generator=g)
    references = ReferenceContext(References(clean)) if grids else NO_REFERENCES
    return lambda weights: Inputs(
        img=img.clone(),
        txt=txt,
        modulation=shared_modulation(weights, torch.tensor(sigma)),
        grids=[target, *grids],
        references=references,
        slots=slots,
        prefix=prefix,
    )


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_forward(case, batch, grad):
    ref, ours, state = tiny_pair(CONFIG)
    inputs = inputs_of(case, CONFIG, batch)(state.__getitem__)
    want = reference_velocity(ref, inputs, torch.full((batch,), 0.7))
    with torch.set_grad_enabled(grad):
        got = ours(inputs)
    error = measured(got, want)
    assert error <= 1e-5, f"{case}: relative error {error:.2e}"


@pytest.mark.parametrize("target", [(1, 2, 2), (1, 10, 6), (1, 34, 36)])
def test_published_head_and_axes(target):
    ref, ours, state = tiny_pair(WIDE)
    inputs = inputs_of("two references", WIDE, 1, target)(state.__getitem__)
    want = reference_velocity(ref, inputs, torch.tensor([0.7]))
    with torch.no_grad():
        got = ours(inputs)
    error = measured(got, want)
    assert error <= 1e-5, f"relative error {error:.2e}"


@pytest.mark.parametrize("sigma", [1.0, 0.931, 0.5003, 0.02, 0.0])
def test_the_order_of_the_timestep_product(sigma):
    """(1000 t) f: in the other order the error is ten times as large."""
    ref, ours, state = tiny_pair(CONFIG)
    inputs = inputs_of("one reference", CONFIG, 1, sigma=(sigma,))(state.__getitem__)
    want = reference_velocity(ref, inputs, torch.tensor([sigma]))
    with torch.no_grad():
        error = measured(ours(inputs), want)
    assert error <= 1e-6, f"relative error {error:.2e} at sigma {sigma}"


def test_rows_with_their_own_sigma_and_text():
    """Training batches: each row of a batch has its own timestep and prompt."""
    ref, ours, state = tiny_pair(CONFIG)
    sigma = (0.2, 0.9)
    inputs = inputs_of("two references", CONFIG, 2, sigma=sigma, one_text=False)(state.__getitem__)
    want = reference_velocity(ref, inputs, torch.tensor(sigma))
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            error = measured(ours(inputs), want)
        assert error <= 1e-5, f"relative error {error:.2e}"


def test_a_step_of_the_table_is_the_table_of_one_sigma():
    _, _, state = tiny_pair(CONFIG)
    table = shared_modulation(state.__getitem__, torch.tensor([0.9, 0.4]))
    alone = shared_modulation(state.__getitem__, torch.tensor([0.4]))
    step = table.step(1)
    for got, want in ((step.target, alone.target), (step.prefix, alone.prefix)):
        assert relative(got, want) < 1e-6
    assert relative(step.out, alone.out) < 1e-6
    assert step.target.shape == (1, 4, CONFIG.width)
    assert step.target[:, 1::2].abs().max() <= 1, "gates go through tanh"


@pytest.mark.parametrize("host", [False, True], ids=["device", "host"])
@pytest.mark.parametrize("case", CASES)
def test_the_store_changes_no_bit(case, host):
    """Two steps, two seeds, both halves of CFG in step, with a store for each half."""
    _, ours, state = tiny_pair(CONFIG)
    stores = [PrefixStore(CONFIG.layers, host) for _ in range(2)]
    for sigma, seed in ((1.0, 0), (0.6, 0), (1.0, 1)):
        halves = []
        for half in (0, 1):
            made = inputs_of(case, CONFIG, 2, sigma=(sigma,))(state.__getitem__)
            noise = torch.Generator().manual_seed(seed)
            img = torch.randn(made.img.shape, generator=noise)
            txt = made.txt + half
            halves.append((made, img, txt))
        with torch.no_grad():
            off = [ours(_with(made, img, txt, None)) for made, img, txt in halves]
            walks = [ours.walk(_with(*parts, store)) for parts, store in zip(halves, stores)]
            on = in_step(ours, walks)
        assert all(store.filled for store in stores)
        for got, want in zip(on, off):
            assert torch.equal(got, want), f"largest difference {(got - want).abs().max():.2e}"


def _with(inputs, img, txt, store):
    from dataclasses import replace

    return replace(inputs, img=img.clone(), txt=txt[:1].expand(len(img), -1, -1), prefix=store)


def test_the_store_is_read_and_not_computed_again():
    _, ours, state = tiny_pair(CONFIG)
    store = PrefixStore(CONFIG.layers)
    make = inputs_of("two references", CONFIG, 2, prefix=store)
    with torch.no_grad():
        first = ours(make(state.__getitem__))
        other = inputs_of("two references", CONFIG, 2, prefix=store)(state.__getitem__)
        txt = torch.full_like(other.txt, torch.nan)
        assert torch.equal(ours(_with(other, other.img, txt, store)), first), "the text is not read"
        store.clear()
        assert not store.filled and store.nbytes == 0
        assert ours(_with(other, other.img, txt, store)).isnan().any()


def test_a_stopped_forward_leaves_no_half_filled_store():
    _, ours, state = tiny_pair(CONFIG)
    store = PrefixStore(CONFIG.layers)
    inputs = inputs_of("one reference", CONFIG, 1, prefix=store)(state.__getitem__)

    def stop(index):
        if index == CONFIG.layers - 1:
            raise KeyboardInterrupt

    with torch.no_grad():
        with pytest.raises(KeyboardInterrupt):
            ours(inputs, ForwardHooks(on_block=stop))
        assert not store.filled
        want = ours(_with(inputs, inputs.img, inputs.txt, None))
        assert torch.equal(ours(inputs), want) and store.filled


@pytest.mark.parametrize("target", [(1, 2, 2), (1, 12, 6)])
def test_a_store_serves_every_size_of_the_target(target):
    _, ours, state = tiny_pair(CONFIG)
    store = PrefixStore(CONFIG.layers)
    case = "two references"
    with torch.no_grad():
        ours(inputs_of(case, CONFIG, 1, prefix=store)(state.__getitem__))
        got = ours(inputs_of(case, CONFIG, 1, target, prefix=store)(state.__getitem__))
        want = ours(inputs_of(case, CONFIG, 1, target)(state.__getitem__))
    assert torch.equal(got, want)


@pytest.mark.parametrize("batch", [1, 3])
def test_bytes_of_a_store(batch):
    """One text for all rows of a batch is kept once; the announced bytes are those it takes."""
    _, ours, state = tiny_pair(CONFIG)
    store = PrefixStore(CONFIG.layers)
    inputs = inputs_of("two references", CONFIG, batch, prefix=store)(state.__getitem__)
    with torch.no_grad():
        ours(inputs)
    tokens = 14 + 24 + 16
    assert store.nbytes == ours.prefix_bytes(tokens, torch.float32)
    published = SingleStream.prefix_bytes(_Published(), 4096, torch.bfloat16)
    assert published == 2 << 30, "2 GiB for a reference of 1024x1024"


class _Published:
    config = QWEN_IMAGE_21


def test_stores_of_a_run():
    """Those of the last run stay, for both halves of CFG; no other takes memory."""
    stores, cpu = PrefixStores(), torch.device("cpu")
    assert stores.of(["a"], 2, "off") == [None]
    a, b = stores.of(["a", "b"], 2, "device")
    assert stores.of(["b", "a"], 2, "device") == [b, a], "another seed"
    for store in (a, b):
        store.keep(0, torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4))
    assert stores.nbytes == stores.bytes_on(cpu) == 2 * 2 * 16 * 4
    assert stores.bytes_on(torch.device("meta")) == 0
    (c,) = stores.of(["c"], 2, "device", besides=[b])
    assert c not in (a, b) and stores.nbytes == b.nbytes, "the one that is not read is freed"
    assert stores.of(["b"], 2, "device") == [b] and stores.of(["c"], 2, "device") != [c]
    (kept,) = stores.of(["b"], 2, "device")
    (moved,) = stores.of(["b"], 2, "host")
    assert moved is not kept and moved.host
    moved.keep(0, torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4))
    assert stores.nbytes == 2 * 16 * 4
    assert stores.of(["b"], 2, "off") == [None] and stores.nbytes == 0
    (last,) = stores.of(["b"], 2, "device")
    last.keep(0, torch.zeros(1, 2, 2, 4), torch.zeros(1, 2, 2, 4))
    stores.clear()
    assert stores.nbytes == last.nbytes == 0 and not last.filled


def test_reading_order():
    assert reading_order(5, (), ()) == [(0, 5, True)]
    assert reading_order(5, (2, 2), (4, 6)) == [
        (0, 2, True),
        (2, 6, False),
        (6, 12, False),
        (12, 15, True),
    ]
    assert reading_order(3, (0, 3), (4, 2)) == [(0, 4, False), (4, 7, True), (7, 9, False)]


def test_chunks_of_the_feed_forward_change_nothing(monkeypatch):
    _, ours, state = tiny_pair(CONFIG)
    inputs = inputs_of("two references", CONFIG, 2)
    with torch.no_grad():
        whole = ours(inputs(state.__getitem__))
        monkeypatch.setattr(SwiGLU, "ROWS", 7)
        error = measured(ours(inputs(state.__getitem__)), whole)
    assert error < 1e-6, f"relative error {error:.2e}"


def test_a_long_prompt_behind_references_builds_no_large_mask(monkeypatch):
    """Causal text behind many keys goes in chunks of queries."""
    from inkstone.kernels import attention as door

    q, k, v = (torch.randn(1, 2, n, 8) for n in (600, 900, 900))
    whole = door.attention(q, k, v, causal=True)
    monkeypatch.setattr(door, "_MASK", 1 << 10)
    masks = []
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, **kwargs):
        masks.append(kwargs.get("attn_mask"))
        return sdpa(*args, **kwargs)

    monkeypatch.setattr(door.F, "scaled_dot_product_attention", spy)
    error = measured(door.attention(q, k, v, causal=True), whole)
    assert error < 1e-6, f"relative error {error:.2e}"
    assert max(m.numel() for m in masks) == 256 * 812 and len(masks) == 3


def test_meta_device_has_every_parameter():
    with torch.device("meta"):
        network = SingleStream()
    table = 256 * 4096 + 4096 * 4096 + 4 * 4096 * 4096 + 4096 * 4096
    assert sum(p.numel() for p in network.parameters()) + table == 7_115_124_736


def test_bf16_stays_close():
    ref, ours, state = tiny_pair(CONFIG)
    inputs = inputs_of("two references", CONFIG, 1)(state.__getitem__)
    with torch.no_grad():
        want = ours(inputs)
        half = ours.to(torch.bfloat16)
        from dataclasses import replace

        mod = shared_modulation(state.__getitem__, torch.tensor([0.7]), torch.bfloat16)
        clean = References(inputs.references.references.tokens.bfloat16())
        got = half(
            replace(
                inputs,
                img=inputs.img.bfloat16(),
                txt=inputs.txt.bfloat16(),
                modulation=mod,
                references=ReferenceContext(clean),
            )
        )
    error = measured(got.float(), want)
    assert got.dtype == torch.bfloat16 and error < 0.02, f"relative error {error:.2e}"
