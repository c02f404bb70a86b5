"""VideoX-Fun's control of Qwen-Image-2.1 against a restatement on diffusers' blocks, float32."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inkstone.errors import InkstoneError
from inkstone.kernels.block_streaming import in_step
from inkstone.kernels.configs import QWEN_IMAGE_21, MMDiTConfig, SingleStreamConfig
from inkstone.kernels.control_union import PlacedOnBoth, UnionBranch
from inkstone.kernels.forward import ForwardHooks, Inputs
from inkstone.kernels.references import NO_REFERENCES, ReferenceContext, References
from inkstone.kernels.shared_modulation import shared_modulation
from inkstone.loaders.arch.expected_tensors import union_layout
from inkstone.loaders.arch.identify import identify
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.control import load_control
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.control_checks import check_controls
from inkstone.sampling.request import Control, Request
from inkstone.sampling.sampler import denoise

from ..support import single_stream_files as files
from ..support.oracle import fill, library, relative
from ..support.single_stream import reference_network

CONFIG = SingleStreamConfig(4, 2, 16, 8, 24, 96, (4, 6, 6))
BLOCKS, CONDITION = 2, 17  # 2 * 8 channels and a mask


class Restated(nn.Module):
    """The control as its publisher describes it, on diffusers' own blocks: one joint sequence, a
    dense mask, hints on every token."""

    def __init__(self, config: SingleStreamConfig) -> None:
        super().__init__()
        library("diffusers")
        from diffusers.models.transformers.transformer_qwenimage21 import (
            QwenImage21TransformerBlock,
        )

        d = config.width
        self.control_img_in = nn.Linear(CONDITION, d)
        self.control_blocks = nn.ModuleList()
        for number in range(BLOCKS):
            block = QwenImage21TransformerBlock(d, config.heads, config.head_dim, config.ff // d)
            if number == 0:
                block.before_proj = nn.Linear(d, d)
            block.after_proj = nn.Linear(d, d)
            self.control_blocks.append(block)

    def velocity(self, base, inputs: Inputs, sigma: Tensor, picture: Tensor, scale) -> Tensor:
        """The target's velocity with these hints. scale: a number, or [S,1] for target tokens."""
        grids, target = inputs.grids[1:], inputs.grids[0]
        clean, read, at = inputs.references.references, 0, 0
        img, txt = base.img_in(inputs.img), base.txt_in(inputs.txt)
        batch, parts, ids = len(img), [], []
        for slot, (number, (_, h, w)) in zip(inputs.slots, enumerate(grids)):
            rows = base.img_in(clean.tokens[:, at : at + h * w]).expand(batch, -1, -1)
            parts += [txt[:, read:slot], rows]
            ids += [-1] * (slot - read) + [number] * (h * w)
            read, at = slot, at + h * w
        parts += [txt[:, read:], img]
        ids += [-1] * (txt.shape[1] - read) + [len(grids)] * math.prod(target)
        x, ids = torch.cat(parts, 1), torch.tensor(ids)
        is_target = ids == len(grids)
        rope = base.pos_embed([*grids, target], ids >= 0, device=x.device)
        temb = base.time_text_embed(torch.cat([sigma, sigma.new_zeros(1)]), x)
        n = torch.arange(len(ids))
        allowed = (n[:, None] >= n[None]) | ((ids[:, None] == ids[None]) & (ids >= 0)[:, None])
        more = dict(
            modulation=base.modulation(temb),
            rotary_emb=rope,
            attention_mask=allowed[None, None],
            target_token_mask=is_target,
            segments=None,
        )
        control = torch.zeros_like(x)
        control[:, is_target] = self.control_img_in(picture)
        c, hints = self.control_blocks[0].before_proj(control) + x, []
        for block in self.control_blocks:
            c = block(c, **more)
            hints.append(block.after_proj(c))
        factor = torch.ones(len(ids), 1)
        factor[is_target] *= scale
        factor[~is_target] *= scale if isinstance(scale, float) else 1.0
        for index, block in enumerate(base.transformer_blocks):
            x = block(x, **more)
            if index % 2 == 0:
                x = x + hints[index // 2] * factor
        return base.proj_out(base.norm_out(x, temb, is_target))[:, is_target]


CASES = {  # text tokens, grids of references, text before each
    "text to image": (9, [], ()),
    "one reference": (11, [(1, 4, 6)], (5,)),
    "adjacent references": (10, [(1, 4, 4), (1, 6, 2)], (4, 4)),
}


def setting(case: str, batch: int):
    text, grids, slots = CASES[case]
    g = torch.Generator().manual_seed(4)
    clean = torch.randn(1, sum(h * w for _, h, w in grids), CONFIG.channels, generator=g)
    base = reference_network(CONFIG)
    mod = shared_modulation(base.state_dict().__getitem__, torch.tensor([0.6]))
    inputs = Inputs(
        img=torch.randn(batch, 24, CONFIG.channels, generator=g),
        txt=torch.randn(1, text, CONFIG.joint, generator=g).expand(batch, -1, -1),
        modulation=mod,
        grids=[(1, 6, 4), *grids],
        references=ReferenceContext(References(clean)) if grids else NO_REFERENCES,
        slots=slots,
    )
    return base, inputs, torch.randn(1, 24, CONDITION, generator=g)


def ours_of(base, restated: Restated):
    from inkstone.kernels.single_stream import SingleStream
    from inkstone.loaders.arch.key_maps import fun_names

    network = SingleStream(CONFIG)
    network.load_state_dict(base.state_dict(), strict=False)
    branch = UnionBranch(replace(CONFIG, layers=BLOCKS), CONDITION)
    state = restated.state_dict()
    branch.load_state_dict({ours: state[file] for ours, file in fun_names(state).table.items()})
    return network.eval(), branch.eval()


@pytest.mark.parametrize("scale", [1.0, 0.7, "region"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_velocity(case, batch, scale):
    base, inputs, picture = setting(case, batch)
    restated = fill(Restated(CONFIG))
    network, branch = ours_of(base, restated)
    tokens = torch.rand(24, 1, generator=torch.Generator().manual_seed(1))
    factor = tokens if scale == "region" else scale
    with torch.no_grad():
        sigma = torch.full((batch,), 0.6)
        want = restated.velocity(base, inputs, sigma, picture, factor)
        plain = network(inputs)
        (hints,) = in_step(branch, [branch.walk(inputs, picture, network)])
        strength = 1.0 if scale == "region" else scale
        placed = PlacedOnBoth(hints, factor[None] if scale == "region" else factor, strength)
        got = network(inputs, ForwardHooks(after=[placed]))
    error, effect = relative(got, want), relative(plain, want)
    assert error <= 1e-5, f"{case}: relative error {error:.2e}"
    assert effect > 0.01, f"the control changes only {effect:.2e}: this test would see nothing"


def test_published_layout():
    layout = union_layout(replace(QWEN_IMAGE_21, layers=16))
    d = 4096
    blocks = 16 * (218_104_064 + d * d + d)
    assert sum(map(math.prod, layout.values())) == blocks + d * d + d + 129 * d + d


# ----- files and runs, with heads as published

WIDE = replace(files.CONFIG, layers=4)
NAMES = (
    ("controlnet_x_embedder", "control_img_in"),
    ("before_proj", "control_blocks.0.before_proj"),
)


def control_state(fused: bool) -> dict[str, Tensor]:
    """A control of two blocks in the file's names."""
    g = torch.Generator().manual_seed(9)
    layout = union_layout(replace(WIDE, layers=2))
    state = {
        n: torch.randn(s, generator=g) * (0.1 if len(s) == 1 else s[1] ** -0.5) + ("norm_" in n)
        for n, s in layout.items()
    }
    state = files.fused(state) if fused else state
    out = {}
    for name, tensor in state.items():
        for ours, theirs in NAMES:
            name = name.replace(ours, theirs)
        name = name.replace("transformer_blocks.", "control_blocks.")
        match = name.removeprefix("controlnet_blocks.")
        if match != name:
            number, _, leaf = match.partition(".")
            name = f"control_blocks.{number}.after_proj.{leaf}"
        out[name] = tensor
    return out


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("m") / "m.safetensors"
    files.write(path, files.weights(0, WIDE))
    return load_diffusion_model(path, LoadOptions(dtype=torch.float32, variant="2.1"))


def loaded(folder: Path, fused: bool, change=dict):
    path = folder / "control.safetensors"
    save_safetensors(path, {n: t.contiguous() for n, t in change(control_state(fused)).items()}, {})
    return path


def drawn(model, control=None, **more) -> Tensor:
    text = torch.randn(1, 9, WIDE.joint, generator=torch.Generator().manual_seed(2))
    controls = () if control is None else (control,)
    request = Request(96, 64, torch.tensor([1.0, 0.6, 0.3, 0.0]), controls=controls, **more)
    return denoise(model, text, None, request)


def test_files_are_recognised_and_drawn_with(model, tmp_path):
    path = loaded(tmp_path, True)
    facts = identify(path)
    assert not facts.problem and (facts.role, facts.family) == ("controlnet", "qwen-image-2.1")
    assert "Qwen-Image-2.1 ControlNet, fun union, 2 layers" in facts.sentence
    fused = load_control(path, LoadOptions(dtype=torch.float32))
    picture = torch.randn(1, 64, 1, 4, 6, generator=torch.Generator().manual_seed(5))
    got = drawn(model, Control(fused, picture))
    split = load_control(loaded(tmp_path, False), LoadOptions(dtype=torch.float32))
    assert torch.equal(drawn(model, Control(split, picture)), got)
    plain = drawn(model)
    assert relative(got, plain) > 1e-2
    assert torch.equal(drawn(model, Control(fused, picture, strength=0.0)), plain)
    late = drawn(model, Control(fused, picture, start=0.6))
    assert 0 < relative(late, plain) < relative(got, plain)
    two = drawn(model, Control(fused, picture), batch=2)
    error = relative(two[:1], got)
    assert error < 1e-5, f"a batch of two differs from a single one by {error:.1e}"
    keep, source = torch.ones(1, 1, 4, 6), torch.randn(1, 64, 1, 4, 6)
    inpainted = drawn(model, Control(fused, picture, keep_mask=keep, source=source))
    assert relative(inpainted, got) > 1e-4


def test_references_and_slots_reach_it(model, tmp_path):
    control = load_control(loaded(tmp_path, True), LoadOptions(dtype=torch.float32))
    g = torch.Generator().manual_seed(6)
    picture, reference = (torch.randn(1, 64, 1, h, w, generator=g) for h, w in ((4, 6), (2, 4)))
    runs = [
        drawn(model, Control(control, picture), references=(reference,), slots=(slot,))
        for slot in (3, 6)
    ]
    assert relative(*runs) > 1e-4


def test_int8_convrot_control(model, tmp_path):
    pytest.importorskip("comfy_kitchen")

    def packed(state):
        plain = {
            n: t for n, t in state.items() if "_blocks." in n and "proj" not in n and t.dim() > 1
        }
        rest = {n: t for n, t in state.items() if n not in plain}
        return rest | files.comfy("int8_tensorwise convrot")(
            {n.replace("control_", "transformer_"): t for n, t in plain.items()}
        )

    def change(state):
        return {n.replace("transformer_", "control_"): t for n, t in packed(state).items()}

    control = load_control(loaded(tmp_path, True, change), LoadOptions(dtype=torch.float32))
    assert "int8_tensorwise convrot" in control.weights_format
    plain = load_control(loaded(tmp_path, True), LoadOptions(dtype=torch.float32))
    picture = torch.randn(1, 64, 1, 4, 6, generator=torch.Generator().manual_seed(5))
    error = relative(drawn(model, Control(control, picture)), drawn(model, Control(plain, picture)))
    assert 0 < error < 0.05, f"relative error {error:.1e}"


def test_a_control_of_the_other_family_is_one_sentence(model, tmp_path):
    control = load_control(loaded(tmp_path, True), LoadOptions(dtype=torch.float32))
    picture = torch.zeros(1, 64, 1, 4, 6)
    request = Request(96, 64, torch.tensor([1.0, 0.0]), controls=(Control(control, picture),))
    with pytest.raises(
        InkstoneError, match="for a model of another family: it has blocks of another"
    ):
        check_controls(MMDiTConfig(4, 2, 128, 64, 256, 512), model.latents, request)
    check_controls(WIDE, model.latents, request)
