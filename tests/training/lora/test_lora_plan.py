"""The memory of a training step against its plan, to the bytes that torch allocates."""

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.block_streaming import in_step
from inkstone.kernels.configs import MMDiTConfig, SingleStreamConfig
from inkstone.kernels.forward import ForwardHooks, ForwardSize, Inputs
from inkstone.kernels.memory import process_bytes
from inkstone.kernels.mmdit import MMDiT
from inkstone.kernels.recompute import Recompute
from inkstone.kernels.single_stream import SingleStream
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.training.lora.adapter import Adapter, AdapterSettings
from inkstone.training.lora.plan import Working, train_plan

from ...kernels.test_passes import rows_of
from ...support.allocated import allocated

CONFIGS = {
    "first": (MMDiT, MMDiTConfig(3, 4, 128, 64, 64, 2048, (16, 56, 56))),
    "2.1": (SingleStream, SingleStreamConfig(3, 4, 128, 64, 48, 2048, (16, 56, 56))),
}


@pytest.mark.parametrize("size", [(1024, 64, 1), (1024, 512, 1), (512, 64, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("keep", [0, 3], ids=["recomputed", "kept"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_step_takes_what_is_planned(family, keep, dtype, size):
    (target, text, batch), (kind, config) = size, CONFIGS[family]
    torch.manual_seed(0)
    whole = kind(config).requires_grad_(False).to(dtype)
    adapter = Adapter.create(whole, AdapterSettings(rank=4))
    for parameter in adapter.parameters():
        parameter.grad = torch.zeros_like(parameter)
    mod = rows_of(family, config, dtype)
    inputs = Inputs(
        torch.randn(1, target, 64, dtype=dtype),
        torch.randn(1, text, config.joint, dtype=dtype),
        mod,
        [(1, target // 16, 16)],
    )

    def step():
        hooks = ForwardHooks(recompute=Recompute(whole, 0, 3 - keep))
        with adapter.on(whole), torch.enable_grad():
            walks = [whole.walk(inputs, hooks) for _ in range(batch)]
            sum(v.float().square().mean() for v in in_step(whole, walks)).backward()

    step()
    got = allocated(step)
    want = whole.training_bytes(ForwardSize(target, text, batch, batch), dtype, 0, keep)
    want -= config.ff * config.width * dtype.itemsize  # nothing is unpacked here
    assert 0.85 < got / want < 1.08, f"{got / 1e6:.1f} MB of {want / 1e6:.1f} planned"


def test_the_plan_is_a_sentence_and_an_error_says_what_helps():
    model = load_diffusion_model(EMBEDDED_FOLDER)
    adapter = Adapter.create(model.network, AdapterSettings(rank=8))
    plan = train_plan(model, adapter, Working(target=256, prefix=40, average=True))
    numbers = sum(p.numel() for p in adapter.parameters())
    assert plan.adapter == numbers * 4 * 5
    assert plan.peak == plan.program + plan.weights + plan.working
    assert "resident" in plan.sentence() and "GB" in plan.sentence()
    with pytest.raises(InkstoneError, match=r"at least .* GB even when weights are streamed"):
        train_plan(model, adapter, Working(target=10**9, prefix=40))
    limited = load_diffusion_model(
        EMBEDDED_FOLDER, LoadOptions(budget=process_bytes() + 50_000_000)
    )
    with pytest.raises(InkstoneError, match=r"Set --memory to .* or more, take a smaller --resol"):
        train_plan(limited, adapter, Working(target=256, prefix=40))
