"""Attention of regional prompts against one call with a dense mask, and the whole network with them
against diffusers' class with that mask.
"""

from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from inkstone.kernels import regions as kernel
from inkstone.kernels.configs import MMDiTConfig
from inkstone.kernels.forward import Inputs
from inkstone.kernels.mmdit import MMDiT
from inkstone.kernels.modulation import modulation
from inkstone.kernels.references import ReferenceContext, References
from inkstone.kernels.regions import Regions

from ..support.oracle import fill, measured, relative

CONFIG = MMDiTConfig(3, 3, 32, 64, 48, 384, (8, 12, 12))
TEXTS = (5, 3, 7, 9)  # three regions, the global prompt


def cells(rows: int, columns: int) -> torch.Tensor:
    """Left half, a box that overlaps it, single tokens: [3,rows*columns] bool."""
    marks = torch.zeros(3, rows, columns, dtype=torch.bool)
    marks[0, :, : columns // 2] = True
    marks[1, rows // 3 :, columns // 3 :] = True
    marks[2, 0, 0] = marks[2, rows - 1, columns - 1] = marks[2, 1, columns // 2] = True
    return marks.flatten(1)


def dense(
    texts: tuple[int, ...], marks: torch.Tensor, base: float | None = None
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """[(mask [N,N], share of each query [N])], by loops over pairs."""
    owner = [i for i, n in enumerate(texts) for _ in range(n)]
    text, last, image = len(owner), len(texts) - 1, marks.shape[1]
    whole, own = torch.zeros(2, text + image, text + image, dtype=torch.bool)
    share = torch.ones(text + image)
    for a in range(text + image):
        for b in range(text + image):
            if a < text and b < text:
                seen = owner[a] == owner[b]
            elif a >= text and b >= text:
                seen = True
            else:
                prompt, token = (owner[a], b - text) if a < text else (owner[b], a - text)
                seen = prompt == last or bool(marks[prompt, token])
            whole[a, b] = own[a, b] = seen
    if base is None:
        return [(whole, share)]
    for a in range(image):
        if marks[:, a].any():
            share[text + a] = 1 - base
            near = marks[marks[:, a]].any(0)
            own[text + a, text:] = near
            own[text + a, text - texts[-1] : text] = False
            whole[text + a, : text - texts[-1]] = False
    return [(own, share), (whole, 1 - share)]


def masked(q, k, v, masks):
    """The sum of the masked attentions."""
    first = len(masks[0][0]) - q.shape[2] if q.shape[2] < k.shape[2] else 0
    return sum(
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask[first:]) * share[first:, None]
        for mask, share in masks
    )


@pytest.mark.parametrize("base", [None, 0.0, 0.25])
@pytest.mark.parametrize("few", [1, 32, 10**6], ids=["calls", "both", "masks"])
@pytest.mark.parametrize("last", [False, True], ids=["all", "image only"])
def test_without_a_dense_mask(base, few, last):
    marks = cells(9, 12)
    length = sum(TEXTS) + marks.shape[1]
    q, k, v = torch.randn(3, 2, 3, length, 32)
    if last:
        q = q[:, :, sum(TEXTS) :]
    with mock.patch.object(kernel, "_FEW", few), mock.patch.object(kernel, "_MASK", 20 * length):
        got = Regions(TEXTS, marks, ((0, 0, 0),) * 3, base).attend(q, k, v)
    want = masked(q, k, v, dense(TEXTS, marks, base))
    error = measured(got, want)
    assert error < 1e-6, f"relative error {error:.2e}"


def test_many_regions():
    """30 random boxes on top of each other."""
    g = torch.Generator().manual_seed(5)
    marks = torch.zeros(30, 16, 20, dtype=torch.bool)
    for mark in marks:
        y, x = (int(torch.randint(n, (1,), generator=g)) for n in (12, 15))
        mark[y : y + 5, x : x + 6] = True
    marks, texts = marks.flatten(1), (3,) * 31
    q, k, v = torch.randn(3, 1, 2, sum(texts) + 320, 16)
    regions = Regions(texts, marks, ((0, 0, 0),) * 30, 0.1)
    error = measured(regions.attend(q, k, v), masked(q, k, v, dense(texts, marks, 0.1)))
    assert error < 1e-6, f"relative error {error:.2e}"


def test_queries_of_another_number():
    with pytest.raises(ValueError, match="200 queries"):
        Regions(TEXTS, cells(6, 6), ((0, 0, 0),) * 3).attend(*torch.randn(3, 1, 1, 200, 8))


@pytest.mark.parametrize("references", [0, 1])
@pytest.mark.parametrize("base", [None, 0.2])
def test_network(references, base):
    """Prompts that count from places of their own, in a batch of two."""
    from diffusers import QwenImageTransformer2DModel

    ref = fill(
        QwenImageTransformer2DModel(
            num_layers=CONFIG.layers,
            attention_head_dim=CONFIG.head_dim,
            num_attention_heads=CONFIG.heads,
            joint_attention_dim=CONFIG.joint,
            axes_dims_rope=CONFIG.axes,
        )
    )
    ours = MMDiT(CONFIG).eval()
    ours.load_state_dict(ref.state_dict(), strict=False)
    grids = [(1, 6, 8)] * (1 + references)
    marks = cells(6, 8).repeat(1, 1 + references)
    places = ((4, 4, 4), (4, 3, 6), (4, 7, 2))
    img, txt = torch.randn(2, 48 * len(grids), 64), torch.randn(2, sum(TEXTS), CONFIG.joint)
    sigma = torch.full((2,), 0.6)
    rotary = ref.pos_embed.forward

    def positions(*args: object, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
        image, text = rotary(*args, **options)
        steps = torch.arange(64)[:, None]
        own = [
            torch.polar(torch.ones(n, 16), _angles(steps[:n] + torch.tensor([place])))
            for n, place in zip(TEXTS, places)
        ]
        return image, torch.cat([*own, text[: TEXTS[-1]]])

    masks = dense(TEXTS, marks, base)
    attend = F.scaled_dot_product_attention
    attention = (
        "diffusers.models.attention_dispatch.torch.nn.functional.scaled_dot_product_attention"
    )

    def everywhere(query, key, value, **_: object) -> torch.Tensor:
        return sum(attend(query, key, value, m) * share[:, None] for m, share in masks)

    with (
        torch.no_grad(),
        mock.patch.object(ref.pos_embed, "forward", positions),
        mock.patch(attention, everywhere),
    ):
        want = ref(img, encoder_hidden_states=txt, timestep=sigma, img_shapes=[grids] * 2).sample[
            :, :48
        ]
    with torch.no_grad():
        mod = modulation(ref.state_dict().__getitem__, sigma[:1], CONFIG.layers)
        clean = ReferenceContext(References(img[:, 48:])) if references else ReferenceContext()
        regions = Regions(TEXTS, marks, places, base)
        got = ours(Inputs(img[:, :48], txt, mod, grids, references=clean, regions=regions))
        plain = ours(Inputs(img[:, :48], txt, mod, grids, references=clean))
    error = measured(got, want)
    assert error < 1e-5, f"relative error {error:.2e}"
    assert relative(plain, want) > 0.01


def _angles(positions: torch.Tensor) -> torch.Tensor:
    """[N,3] -> [N,16], straight from the sheet."""
    parts = [
        positions[:, axis : axis + 1].double() * 10000.0 ** (-2 * torch.arange(d // 2) / d)
        for axis, d in enumerate(CONFIG.axes)
    ]
    return torch.cat(parts, dim=1).float()
