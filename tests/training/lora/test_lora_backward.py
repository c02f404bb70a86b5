"""The backward pass through weights that stay as their file has them: every format against its own
plain weights; streamed against resident; blocks in front of the first that is trained.
"""

import pytest
import torch

from inkstone.kernels.block_streaming import in_step
from inkstone.kernels.forward import ForwardHooks
from inkstone.kernels.linear import Linear
from inkstone.kernels.recompute import Recompute
from inkstone.kernels.triton.backend import random_weight
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.quant.gguf_dequantizer import UNPACK
from inkstone.training.lora.adapter import KINDS, Adapter, AdapterSettings
from inkstone.training.lora.objective import Draws, Objective
from inkstone.training.lora.step import Trainer

from ...kernels.test_passes import FAMILIES, Passes, network
from ...quant.test_formats_detect import CASES, model, packed
from ...support.oracle import relative
from ...support.slow import slow_where
from .test_lora_gradients import examples

SETTINGS = AdapterSettings(rank=3, alpha=2)
GGUF = [name for name in UNPACK if name != "MXFP4"]  # whose random blocks are beyond any float


def randomised(whole, settings=SETTINGS):
    """An adapter with random weights."""
    adapter = Adapter.create(whole, settings)
    g = torch.Generator().manual_seed(1)
    for value in adapter.tensors().values():
        value.add_(torch.randn(value.shape, generator=g) * 0.05)
    return adapter


def gradients(adapter):
    """The gradients by parameter; every one has a number that is not 0."""
    grads = {name: p.grad for name, p in adapter.named_parameters()}
    empty = [name for name, grad in grads.items() if grad is None or not grad.any()]
    assert not empty, f"no gradient: {empty}"
    return grads


def same(got, want, most):
    worst = max((relative(got[name], want[name]), name) for name in want)
    assert worst[0] <= most, f"{worst[1]}: {worst[0]:.1e}"


def plainly(whole):
    """The network with plain weights in place of packed ones, in float32."""
    for layer in whole.modules():
        if isinstance(layer, Linear) and layer.storage is not None:
            weight = layer.storage.dequantize()
            layer.storage = None
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return whole


def in_passes(family, whole, dtype, mod, settings=SETTINGS, keep=9):
    """The gradients of three forwards in step, with references. keep: see `Recompute`."""
    adapter = randomised(whole, settings)
    passes = Passes(family, whole, dtype, mod, "references")
    hooks = ForwardHooks(recompute=Recompute(whole, adapter.first_block, keep))
    with adapter.on(whole), torch.enable_grad():
        walks = list(passes.walks(hooks))
        sum(v.float().square().mean() for v in in_step(whole, walks)).backward()
    return gradients(adapter)


@pytest.mark.parametrize("kind", GGUF)
def test_types_of_gguf(kind):
    want = None
    for plain in (False, True):
        whole, dtype, mod = network("first", "fp32")
        torch.manual_seed(9)
        for layer in whole.transformer_blocks.modules():
            if isinstance(layer, Linear):
                layer.hold(random_weight(kind, *layer.weight.shape))
        got = in_passes("first", plainly(whole) if plain else whole, dtype, mod)
        want = want or got
    same(got, want, 1e-4)


@pytest.mark.parametrize("case", slow_where(lambda case: case == "DFloat11", CASES))
def test_formats_of_other_tools(case, tmp_path):
    tensors = model()
    packed(tensors, case)
    save_safetensors(tmp_path / "packed.safetensors", tensors)
    results = []
    for plain in (False, True):
        whole = load_diffusion_model(tmp_path / "packed.safetensors", LoadOptions(torch.float32))
        whole.ready(0)
        whole.weights.fill()
        if plain:
            plainly(whole.network)
        adapter = randomised(whole.network)
        trainer, draws = Trainer(whole, adapter, Objective()), [Draws(0.4, 3, False)] * 2
        trainer.look_ahead(draws)
        trainer.backward(examples(2, joint=64), draws, 0.5)
        results.append(gradients(adapter))
    same(*results, 1e-4)


@pytest.mark.parametrize("form", ["Q4_K", "bf16 in fp32", "fp32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_blocks_have_the_gradients_of_kept_ones(family, form):
    """A graph of the whole network, by torch, against blocks that are computed again."""
    whole, dtype, mod = network(family, form)
    got = in_passes(family, whole, dtype, mod)
    adapter = randomised(whole)
    with adapter.on(whole), torch.enable_grad():
        velocities = Passes(family, whole, dtype, mod, "references").apart()
        sum(v.float().square().mean() for v in velocities).backward()
    same(got, gradients(adapter), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["Q4_K", "Q4_K in bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_kept_blocks_have_the_bits_of_recomputed_ones(family, form, kind):
    """Whatever the memory: a run that goes on with less of it ends on the same weights."""
    whole, dtype, mod = network(family, form)
    settings = AdapterSettings(kind=kind, rank=3, alpha=2)
    want = in_passes(family, whole, dtype, mod, settings)
    for keep in (0, 2):
        got = in_passes(family, whole, dtype, mod, settings, keep)
        for name in want:
            assert torch.equal(got[name], want[name]), f"{name}: {relative(got[name], want[name])}"


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind):
    """Each kind's branch has the gradients of the same network with dW added to its weights."""
    whole, dtype, mod = network("first", "fp32")
    settings = AdapterSettings(kind=kind, rank=3, alpha=2, targets=("attention",))
    adapter = randomised(whole, settings)
    x = torch.randn(5, whole.config.width)
    for name, change in list(adapter.by_name().items())[:8]:
        layer = whole.get_submodule(name)
        weight = layer.weight + change.delta().dense()
        if kind == "dora":
            weight = weight * (change.magnitude / weight.norm(dim=1).detach())[:, None]
        want = torch.nn.functional.linear(x, weight, layer.bias)
        with adapter.on(whole):
            got = layer(x)
        assert relative(got, want) < 1e-5, name
        for parameter in change.parameters():
            (a,) = torch.autograd.grad(got.sin().sum(), parameter, retain_graph=True)
            (b,) = torch.autograd.grad(want.sin().sum(), parameter, retain_graph=True)
            assert relative(a, b) < 1e-4, f"{name}: {relative(a, b):.1e}"


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_in_front_are_not_computed_again(family):
    whole, dtype, mod = network(family, "fp32")
    settings = AdapterSettings(rank=3, alpha=2, ranks={"0-1": 0})
    got = in_passes(family, whole, dtype, mod, settings)
    assert Adapter.create(whole, settings).first_block == 2
    adapter = randomised(whole, settings)
    with adapter.on(whole), torch.enable_grad():
        velocities = Passes(family, whole, dtype, mod, "references").apart()
        sum(v.float().square().mean() for v in velocities).backward()
    same(got, gradients(adapter), 1e-5)


def test_streamed_is_resident(tmp_path):
    """Blocks that are read again for every pass, forward and backward: bit for bit the gradients of
    resident ones, and each pass reads each block once."""
    tensors = model()
    packed(tensors, "fp8 e4m3 scaled")
    save_safetensors(tmp_path / "packed.safetensors", tensors)
    results = []
    for resident in (True, False):
        whole = load_diffusion_model(tmp_path / "packed.safetensors", LoadOptions(torch.float32))
        if resident:
            whole.ready(0)
        else:
            streamed(whole)
        adapter = randomised(whole.network)
        trainer, draws = Trainer(whole, adapter, Objective()), [Draws(0.4, 3, False)] * 2
        trainer.look_ahead(draws)
        for _ in range(2):
            trainer.backward(examples(2, joint=64), draws, 0.5)
        results.append(gradients(adapter))
    for name, grad in results[0].items():
        assert torch.equal(grad, results[1][name]), name


def streamed(whole):
    """Places no block of a model in memory to stay."""
    from inkstone.loaders.memory.placement import Placement

    whole.weights._arrange(Placement(0, len(whole.network.transformer_blocks), 0))
