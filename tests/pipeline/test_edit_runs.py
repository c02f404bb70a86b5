"""Refusals of edit variants, masks, batches, and the work that an edit does once."""

from __future__ import annotations

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.loaders.models.load import load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling import sampler
from inkstone.sampling.lightning import Distilled, misfit
from inkstone.sampling.request import Request
from inkstone.sampling.run_memory import working_bytes
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LIGHTNING, LINEAR, sigmas, tail

from ..support.edit_models import LEVELS, SIZE, WAITING, latent, single, text
from ..support.oracle import measured, relative

ONE, NAN = latent(), torch.full((1, 16, 1, 6, 10), torch.nan)


MASK = torch.ones(1, 1, 6, 10)


REFUSED = [
    ("qwen-image", dict(references=(ONE,)), "1 reference picture for qwen-image, which takes none"),
    ("edit", dict(references=(ONE, ONE)), "2 reference pictures for edit, which takes 1"),
    (
        "edit-2511",
        dict(references=(ONE,), encoded_for="edit-2509"),
        "encoded for edit-2509, the diffusion model is edit-2511",
    ),
    ("qwen-image", dict(encoded_for="edit"), "encoded for edit, the diffusion model is qwen-image"),
    ("edit", dict(references=(ONE[:, :8],)), "Reference picture 1 has shape"),
    ("edit", dict(references=(ONE[:, :, 0],)), r"picture 1 has shape \[1, 16, 6, 10\]"),
    ("edit-2509", dict(references=(ONE, torch.cat([ONE, ONE]))), "picture 2 has shape.*one latent"),
    ("edit-2509", dict(references=(ONE, NAN)), "Reference picture 2: 960 of 960 values are not"),
    ("edit", dict(references=(ONE,), layers=2), "request has 2 layers, but edit draws one picture"),
    ("qwen-image", dict(repaint=MASK), "no latent"),
    ("qwen-image", dict(repaint=MASK[..., :9], latent=ONE), r"\[1, 1, 6, 9\].*\[1, 1, 6, 10\]"),
    ("qwen-image", dict(repaint=torch.ones(1, 1, 48, 80), latent=ONE), "one value per latent"),
    ("qwen-image", dict(repaint=MASK.expand(3, -1, -1, -1), latent=ONE), r"mask has shape \[3"),
    ("qwen-image", dict(repaint=MASK * torch.nan, latent=ONE), "inpainting mask: 60 of 60"),
    ("qwen-image", dict(repaint=MASK * 255, latent=ONE), "values from 255 to 255"),
    ("qwen-image", dict(repaint=-MASK, latent=ONE), "values from -1"),
    ("qwen-image", dict(latent=latent(64, 48), sigmas=tail(LEVELS, 0.5)), "canvas is 80x48"),
    ("qwen-image", dict(latent=latent(batch=3), sigmas=tail(LEVELS, 0.5)), "expected 1 of"),
    ("qwen-image", dict(latent=NAN, sigmas=tail(LEVELS, 0.5)), "latent to start from: 960"),
    ("qwen-image", dict(sigmas=tail(LEVELS, 0.5)), "no latent to start from"),
    ("layered", dict(layers=2), "splits one picture into layers, got 0"),
    ("layered", dict(layers=2, references=(ONE, ONE)), "got 2 pictures"),
    ("layered", dict(references=(ONE,)), "Layers is 0: expected 1 to 64"),
    ("layered", dict(layers=65, references=(ONE,)), "Layers is 65"),
    ("layered", dict(layers=2, references=(latent(64, 48),)), "split is 64x48, the canvas 80x48"),
    ("layered", dict(layers=2, references=(ONE,), repaint=MASK, latent=ONE), "from noise alone"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda c: f"{c[0]}: {c[2][:40]}")
def test_refusals(model, monkeypatch, case):
    """A sentence each, before any weight is used."""
    kind, changed, words = case
    context = sampler.ReferenceContext
    monkeypatch.setattr(context, "__init__", lambda *_: pytest.fail("the run began"))
    call = dict(width=80, height=48, sigmas=LEVELS) | changed
    with pytest.raises(InkstoneError, match=words):
        denoise(model(kind), text(), None, Request(**call))


def test_references_need_a_variant(folder, tmp_path):
    unknown = load_diffusion_model(single(folder("edit"), tmp_path), WAITING)
    with pytest.raises(InkstoneError, match="not say which variant.*Choose the variant"):
        denoise(unknown, text(), None, Request(*SIZE, LEVELS, references=(ONE,)))


def test_without_references_every_variant_draws_the_same(folder, tmp_path):
    """Weights being equal; the row of t = 0 is then read by nobody."""
    path = single(folder("qwen-image"), tmp_path)
    drawn = [
        denoise(
            load_diffusion_model(path, LoadOptions(torch.float32, variant=name)),
            text(),
            None,
            Request(*SIZE, LEVELS),
        )
        for name in (None, "qwen-image", "edit", "edit-2509", "edit-2511")
    ]
    assert all(torch.equal(one, drawn[0]) for one in drawn)


def test_a_run_from_a_picture_may_have_fewer_lightning_steps():
    eight = Distilled(8, "as the test says")
    whole = sigmas(LIGHTNING, 8, 1)
    assert misfit(eight, whole, 1.0) is misfit(eight, tail(whole, 0.5), 1.0) is None
    assert "4 steps" in misfit(eight, sigmas(LIGHTNING, 4, 1), 1.0)
    assert "24 steps" in misfit(eight, tail(sigmas(LIGHTNING, 40, 1), 0.6), 1.0)


@pytest.mark.parametrize("strength", [0, -1, 1.1, float("nan")])
def test_strengths_out_of_range(strength):
    with pytest.raises(InkstoneError, match="strength is .*expected more than 0, up to 1"):
        tail(LEVELS, strength)


# --- masks of ones and zeros, odd references, batches


def test_a_mask_of_ones_draws_all_and_one_of_zeros_nothing(model):
    call = dict(sigmas=tail(sigmas(LINEAR, 4, 15), 0.5), seed=3, latent=ONE)
    free, ones, zeros = (
        denoise(model("qwen-image"), text(), None, Request(*SIZE, **call, repaint=mask))
        for mask in (None, MASK, MASK * 0)
    )
    assert relative(ones, free) < 1e-6 and relative(zeros, ONE) < 1e-6
    half = denoise(model("qwen-image"), text(), None, Request(*SIZE, **call, repaint=MASK * 0.5))
    assert relative(half, ONE) > 1e-2 and relative(half, free) > 1e-2


def test_a_reference_with_odd_sides_gets_its_edge_repeated(model):
    """Core nodes encode at multiples of 8."""
    odd = latent(88, 40)
    assert odd.shape[-2:] == (5, 11)
    padded = torch.cat([odd, odd[..., -1:]], dim=-1)
    padded = torch.cat([padded, padded[..., -1:, :]], dim=-2)
    got, want = (
        denoise(model("edit"), text(), None, Request(*SIZE, LEVELS, references=(z,)))
        for z in (odd, padded)
    )
    assert torch.equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("kind", ["edit", "edit-2509", "edit-2511", "layered", "inpaint"])
def test_a_batch_is_its_singles(model, kind, cfg):
    """Also with a latent, and a mask, of one or of each."""
    more = dict(sigmas=LEVELS)
    if kind == "inpaint":
        more = dict(sigmas=tail(sigmas(LINEAR, 4, 15), 0.6))
    elif kind == "layered":
        more |= dict(references=(ONE,), layers=2)
    else:
        more |= dict(references=(latent(96, 32), latent(48, 64))[: 1 + (kind != "edit")])
    latents, masks = latent(batch=2, seed=4), (torch.rand(2, 1, 6, 10) > 0.5).float()

    def drawn(seed: int, rows: slice) -> torch.Tensor:
        own = dict(latent=latents[rows], repaint=masks[rows]) if kind == "inpaint" else {}
        batch = len(latents[rows])
        request = Request(*SIZE, seed=seed, batch=batch, cfg=cfg, **more, **own)
        return denoise(model(kind), text(), text(5, 1) if cfg > 1 else None, request)

    both = drawn(7, slice(0, 2))
    for k in range(2):
        error = measured(both[k : k + 1], drawn(7 + k, slice(k, k + 1)))
        assert error < 1e-5, f"item {k} differs by {error:.1e} relative"
    assert relative(both[:1], both[1:]) > 0.1


# --- what is done once, and what it needs


@pytest.mark.parametrize("kind, keys", [("edit-2509", 6), ("edit-2511", 7)])
def test_references_are_embedded_once(model, kind, keys, monkeypatch):
    """3 steps, both halves of CFG: 6 forwards. Under zero_cond_t the first block's keys of
    references too; their outputs in the last block never."""
    made, net = [], model(kind).network
    right = sampler.References
    monkeypatch.setattr(
        sampler, "References", lambda *a, **k: made.append(right(*a, **k)) or made[-1]
    )
    seen: dict[str, list[int]] = {"img_in": [], "to_k": [], "to_out": []}
    parts = {
        "img_in": net.img_in,
        "to_k": net.transformer_blocks[0].attn.to_k,
        "to_out": net.transformer_blocks[-1].attn.to_out[0],
    }
    hooks = [
        part.register_forward_pre_hook(lambda _, args, n=name: seen[n].append(args[0].shape[1]))
        for name, part in parts.items()
    ]
    request = Request(
        *SIZE, sigmas(LINEAR, 3, 15), cfg=4.0, references=(latent(96, 32), latent(48, 64))
    )
    denoise(model(kind), text(), text(5, 1), request)
    for hook in hooks:
        hook.remove()
    assert len(made) == 1 and made[0].tokens.shape == (1, 24, 64)
    assert sorted(seen["img_in"]) == [15] * 6 + [24]
    assert len(seen["to_k"]) == keys and seen["to_out"] == [15] * 6
    assert sorted(set(seen["to_k"])) == ([15, 24] if kind == "edit-2511" else [39])


def test_a_new_seed_computes_no_table(model, monkeypatch):
    from inkstone.loaders.models import architecture

    own = model("edit-2511")
    call = dict(sigmas=sigmas(LINEAR, 2, 15) * 0.97, latent=ONE, references=(ONE,))
    denoise(own, text(), None, Request(*SIZE, **call))
    monkeypatch.setattr(architecture, "modulation", lambda *_: pytest.fail("computed again"))
    denoise(own, text(), None, Request(*SIZE, **call, seed=2))


def test_working_memory_counts_references(model):
    texts = {"positive": text()}
    plain = Request(*SIZE, LEVELS)
    one, two = (Request(*SIZE, LEVELS, references=(latent(96, 32), ONE)[:n]) for n in (1, 2))
    need = [working_bytes(model("edit-2509"), r, texts) for r in (plain, one, two)]
    apart = [working_bytes(model("edit-2511"), r, texts) for r in (plain, one, two)]
    width = model("edit-2509").network.config.width
    assert need[1] - need[0] > 12 * width * 4 * 8 and need[2] - need[1] > 15 * width * 4 * 8
    row = apart[0] - need[0]  # the table's row of t = 0
    assert row > 0 and apart[1] - need[1] - row == 12 * width * 8
    layers = [
        working_bytes(model("layered"), Request(*SIZE, LEVELS, references=(ONE,), layers=n), texts)
        for n in (1, 2, 3)
    ]
    assert layers[2] - layers[1] == layers[1] - layers[0] > 15 * width * 4 * 8
