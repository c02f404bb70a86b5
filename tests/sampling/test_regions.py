"""Regional prompts: the embedded model drawn with them, as singles, batches, with controls,
inpainting, step caches and LoRAs, from streamed weights; boxes and settings as people write them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import SingleStreamConfig
from inkstone.loaders.lora.adapters import Adapter, apply_loras
from inkstone.loaders.lora.file import load_lora
from inkstone.loaders.memory import residency
from inkstone.loaders.memory.residency import Residency
from inkstone.loaders.models.control import load_control
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all, load_diffusion_model
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.sampling.geometry import Box
from inkstone.sampling.region_choices import (
    COMPOSED,
    ELIGEN,
    METHODS,
    MOST,
    BoxSpec,
    RegionSettings,
    parse_box,
    parse_region,
)
from inkstone.sampling.region_run import check_regions
from inkstone.sampling.regions import Region, Regional, bounds_of, cells_of, on_grid, place_of
from inkstone.sampling.request import Control, Request
from inkstone.sampling.run_memory import working_bytes
from inkstone.sampling.sampler import denoise
from inkstone.sampling.schedule import LINEAR, sigmas
from inkstone.sampling.step_cache import relative_change
from inkstone.sampling.step_cache_choices import StepCache

from ..support.embedded_loras import embedded_lora

STEPS, SIZE = 4, (96, 64)
PROMPTS = ("a white background", "", "a red circle on a white background", 'the word "HI" in blue')


@pytest.fixture(scope="module")
def bundle():
    return load_all(EMBEDDED_FOLDER, LoadOptions(torch.float32, wait=True))


@pytest.fixture(scope="module")
def model(bundle):
    return bundle.model


@cache
def states() -> tuple[torch.Tensor, ...]:
    text = load_all(EMBEDDED_FOLDER, LoadOptions(torch.float32, wait=True)).text_encoder
    return tuple(text.encode(prompt).states for prompt in PROMPTS)


def half(side: str) -> torch.Tensor:
    marks = torch.zeros(4, 6, dtype=torch.bool)
    marks[:, :3] = side == "left"
    marks[:, 3:] = side == "right"
    return marks


def two(**settings: object) -> Regional:
    sides = (Region(states()[2], half("left")), Region(states()[3], half("right")))
    return Regional(sides, RegionSettings(**settings))


def latent(seed: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 16, 1, 8, 12, generator=torch.Generator().manual_seed(seed))


def drawn(model, regional: Regional | None, **request: object) -> torch.Tensor:
    r = {"sigmas": sigmas(LINEAR, STEPS, 24), "cfg": 3.0, "seed": 3, **request}
    return denoise(model, *states()[:2], Request(*SIZE, regional=regional, **r))


def differ(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_singles(model, method):
    both = drawn(model, two(method=method), batch=2)
    for k in range(2):
        want = drawn(model, two(method=method), seed=3 + k)
        error = relative_change(both[k : k + 1], want)
        assert error < 1e-5, f"row {k}: {error:.2e}"


def test_both_halves_of_the_picture_change(model):
    plain, got = drawn(model, None), drawn(model, two())
    for side in (slice(0, 6), slice(6, 12)):
        assert relative_change(got[..., side], plain[..., side]) > 0.1


def test_the_negative_prompt_has_no_regions(model, monkeypatch):
    seen, walk = [], type(model.network).walk

    def noted(self, inputs, hooks):
        seen.append((inputs.txt.shape[1], inputs.regions is not None))
        return walk(self, inputs, hooks)

    monkeypatch.setattr(type(model.network), "walk", noted)
    drawn(model, two())
    glob, negative, *own = (text.shape[1] for text in states())
    assert seen == [(glob + sum(own), True), (negative, False)] * STEPS


def test_outside_of_their_steps_the_prompt_acts_alone(model):
    """Steps 1 and 2 of 4 are not within the first tenth; a whole run is cut into its parts."""
    assert torch.equal(drawn(model, two(end=0.1)), drawn(model, None))
    assert differ(drawn(model, two(end=0.5)), drawn(model, two())) > 1e-3
    assert differ(drawn(model, two(start=0.5)), drawn(model, two())) > 1e-3


def test_a_region_that_is_the_picture(model):
    """With base 0 its words alone are seen: the picture of its own prompt."""
    whole = Region(states()[2], torch.ones(4, 6, dtype=torch.bool))
    got = drawn(model, Regional((whole,), RegionSettings(base=0)))
    want = denoise(
        model, states()[2], states()[1], Request(*SIZE, sigmas(LINEAR, STEPS, 24), cfg=3.0, seed=3)
    )
    error = differ(got, want)
    assert error < 1e-4, f"{error:.2e}"


@pytest.mark.parametrize("method", METHODS)
def test_order_of_regions_is_no_matter(model, method):
    regional = two(method=method)
    turned = replace(regional, regions=regional.regions[::-1])
    error = differ(drawn(model, regional), drawn(model, turned))
    assert error < 1e-4, f"{error:.2e}"


def test_controls(model):
    """A control reads the prompt of the whole picture; it acts on top of regions."""
    control = Control(load_control(EMBEDDED_FOLDER), latent(9), 0.9)
    both = drawn(model, two(), controls=(control,))
    assert differ(both, drawn(model, two())) > 1e-3
    assert differ(both, drawn(model, None, controls=(control,))) > 1e-3
    pair = drawn(model, two(), controls=(control,), batch=2)
    assert differ(pair[:1], both) < 1e-5


def test_inpaint_keeps_what_is_outside(model):
    mask = torch.zeros(1, 1, 8, 12)
    mask[..., 6:] = 1
    levels = torch.cat([torch.tensor([0.9]), sigmas(LINEAR, STEPS, 24)[1:]])
    start = {"latent": latent(8), "repaint": mask, "sigmas": levels}
    got, plain = drawn(model, two(), **start), drawn(model, None, **start)
    kept = slice(0, 6)
    assert differ(got[..., kept], latent(8)[..., kept]) < 1e-5
    assert differ(got, plain) > 1e-3


@pytest.mark.parametrize("method", ["fbcache", "taylorseer"])
def test_step_caches(model, method):
    """A cache that never skips changes nothing but the size of the calls; rows decide alone."""
    never = StepCache(method, 1.0 if method == "taylorseer" else 0.0, forced=True)
    often = StepCache(method, 2 if method == "taylorseer" else 0.4, forced=True)
    levels = {"sigmas": sigmas(LINEAR, 12, 24)}
    want = drawn(model, two(end=0.5), **levels)
    got = drawn(replace(model, step_cache=never), two(end=0.5), **levels)
    assert differ(got, want) < 1e-5
    cached = replace(model, step_cache=often)
    both = drawn(cached, two(end=0.5), batch=2, **levels)
    assert torch.equal(both[1:], drawn(cached, two(end=0.5), seed=4, **levels))
    assert 0 < relative_change(both[:1], want) < 0.5


def test_loras(bundle, tmp_path):
    embedded_lora(tmp_path / "a.safetensors", bundle)
    file = load_lora(tmp_path / "a.safetensors")
    adapted = apply_loras(bundle.model, None, [Adapter(file, 1.0)])[0]
    own = drawn(adapted, two(method=ELIGEN))
    assert differ(own, drawn(bundle.model, two(method=ELIGEN))) > 1e-3
    assert differ(own, drawn(adapted, None)) > 1e-3


def test_streamed_weights(monkeypatch):
    monkeypatch.setattr(residency, "_all", type(residency._all)())
    streamed = load_diffusion_model(EMBEDDED_FOLDER, LoadOptions(torch.float32, wait=True))
    monkeypatch.setattr(Residency, "_room", lambda *_: 1 << 40)
    want = drawn(streamed, two(), batch=2)
    streamed.weights.park()
    request = Request(*SIZE, sigmas(LINEAR, STEPS, 24), cfg=3.0, batch=2, regional=two())
    texts = {"positive": states()[0], "negative": states()[1]}
    rest, groups = streamed.weights.sizes
    room = rest + 2 * max(groups) + working_bytes(streamed, request, texts)
    monkeypatch.setattr(Residency, "_room", lambda *_: room)
    got = drawn(streamed, two(), batch=2)
    assert streamed.weights.placement.resident == 0
    assert torch.equal(got, want), f"{differ(got, want):.2e}"


def test_regions_are_in_the_plan(model):
    request = Request(*SIZE, sigmas(LINEAR, STEPS, 24), cfg=3.0)
    texts = {"positive": states()[0], "negative": states()[1]}
    plain = working_bytes(model, request, texts)
    own = working_bytes(model, replace(request, regional=two()), texts) - plain
    tokens = 24 + sum(states()[n].shape[1] for n in (0, 2, 3))
    assert own >= 4 * tokens * model.network.config.width * 4


@pytest.mark.parametrize("count", [30, MOST])
def test_many_regions(model, count):
    regions = []
    for number in range(count):
        marks = torch.zeros(4, 6, dtype=torch.bool)
        marks[number % 3 : number % 3 + 2, number % 5 : number % 5 + 2] = True
        regions.append(Region(states()[2 + number % 2], marks))
    assert drawn(model, Regional(tuple(regions))).isfinite().all()


def test_edits(model):
    """The method of EliGen, as DiffSynth-Studio draws it; a reference of another grid too."""
    reference = {"references": (latent(7),)}
    got = drawn(model, two(method=ELIGEN), **reference)
    assert differ(got, drawn(model, None, **reference)) > 1e-3
    small = torch.randn(1, 16, 1, 4, 6)
    assert drawn(model, two(method=ELIGEN), references=(small,)).isfinite().all()
    with pytest.raises(InkstoneError, match="composed.*words alone.*1 reference.*eligen"):
        drawn(model, two(), **reference)


# --- bad input


def bad(model, regional: Regional) -> str:
    with pytest.raises(InkstoneError) as fault:
        drawn(model, regional)
    return str(fault.value)


def test_what_is_no_region(model):
    good = two()
    left = good.regions[0]

    def case(**change: object) -> str:
        return bad(model, Regional((left, replace(left, **change))))

    assert "Region 2 is empty" in case(cells=torch.zeros(4, 6, dtype=torch.bool))
    assert "[3, 6] tokens, the canvas 96x64 has [4, 6]" in case(cells=torch.ones(3, 6).bool())
    assert "region 2 has shape [1, 4, 7]" in case(states=torch.zeros(1, 4, 7))
    assert "region 2 has shape [2, 4, 128]" in case(states=torch.zeros(2, 4, 128))
    assert "the prompt of region 2" in case(states=torch.full((1, 4, 128), float("nan")))
    assert f"expected 1 to {MOST}" in bad(model, Regional(()))
    assert f"{MOST + 1} regions" in bad(model, Regional((left,) * (MOST + 1)))


def test_families_without_regions(model, monkeypatch):
    monkeypatch.setattr(model.network, "config", SingleStreamConfig())
    request = Request(*SIZE, sigmas(LINEAR, STEPS, 24), regional=two())
    with pytest.raises(InkstoneError, match="no place for them.*Draw with Qwen-Image"):
        check_regions(model, request)
    monkeypatch.undo()
    monkeypatch.setattr(type(model), "layered", property(lambda self: True))
    with pytest.raises(InkstoneError, match="Layered.*takes no regional prompts"):
        check_regions(model, request)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"method": "attention"}, "'attention'.*composed or eligen"),
        ({"base": 1.0}, "base ratio of the regions is 1:"),
        ({"base": -0.1}, "is -0.1:"),
        ({"base": float("nan")}, "is nan:"),
        ({"start": 0.5, "end": 0.5}, "from 0.5 to 0.5"),
        ({"end": 1.5}, "from 0 to 1.5"),
    ],
)
def test_settings(settings, words):
    with pytest.raises(InkstoneError, match=words):
        RegionSettings(**settings)


# --- boxes, masks, positions


@pytest.mark.parametrize(
    "text, prompt, box",
    [
        ('"a red circle":0,0,64,128', "a red circle", (0, 0, 64, 128)),
        ("a red circle:0, 0,64 ,128", "a red circle", (0, 0, 64, 128)),
        ('the word "A: B":50%,0,50%,100%', 'the word "A: B"', (64, 0, 128, 128)),
        ('"left" and "right":0,0,12.5%,64', '"left" and "right"', (0, 0, 16, 64)),
    ],
)
def test_parse(text, prompt, box):
    region = parse_region(text)
    assert region.prompt == prompt
    assert region.place.on(128, 128) == Box(*box)
    assert parse_region(region.words()) == region


@pytest.mark.parametrize(
    "text, words",
    [
        ("0,0,1,1", "is no region"),
        ('"":0,0,1,1', "is no region"),
        ("a cat", "is no region"),
        ("a cat:0,0,1", "'0,0,1' is no box"),
        ("a cat:0,0,-1,1", "is no box"),
        ("a cat:0,0,a,1", "is no box"),
        ("a cat:0,0,0,1", "is empty"),
        ("a cat:0.5,0,0.5,1", "shares of a side are written in percent"),
    ],
)
def test_what_is_no_box(text, words):
    with pytest.raises(InkstoneError, match=words):
        parse_region(text)


@pytest.mark.parametrize("box", ["0,0,130,128", "128,0,10,10", "60%,0,60%,10", "0,200,8,8"])
def test_boxes_outside_of_the_picture(box):
    with pytest.raises(InkstoneError, match="the picture is 128x128"):
        parse_box(box).on(128, 128)
    assert BoxSpec((0, 0, 129, 128)).on(128, 128) == Box(0, 0, 128, 128)  # rounded


def test_cells():
    """A token counts if the middle of one of its latent pixels is marked."""
    mask = torch.zeros(64, 96)
    mask[20:21, 5:40] = 1  # row 20 is the middle of latent row 2: 16 to 23
    got = cells_of(mask)
    assert got.tolist() == [[r == 1 and c in (0, 1, 2) for c in range(6)] for r in range(4)]
    mask[20], mask[17, 5:40] = 0, 1  # beside the middle of its latent row
    assert not cells_of(mask).any()
    assert bounds_of(got) == (1, 0, 1, 3)


def test_places():
    """The words of a half of a picture stand to its middle as those of a picture to its own."""
    grids = [(1, 4, 6)]
    assert place_of(half("left"), grids, ELIGEN) == (3, 3, 3)
    assert place_of(half("left"), [*grids, (1, 20, 2)], ELIGEN) == (10, 10, 10)
    whole = torch.ones(4, 6, dtype=torch.bool)
    assert place_of(whole, grids, COMPOSED) == (3, 3, 3)
    assert place_of(torch.ones(5, 7, dtype=torch.bool), [(1, 5, 7)], COMPOSED) == (3, 3, 3)
    # columns 0..2 of 6 are at -3..-1, those of a picture of 3 at -2..0; columns 3..5 at 0..2
    assert place_of(half("left"), grids, COMPOSED) == (3, 3, 2)
    assert place_of(half("right"), grids, COMPOSED) == (3, 3, 5)


def test_other_grids():
    got = on_grid(half("left"), (2, 2, 4)).view(2, 2, 4)
    assert got.tolist() == [[[True, True, False, False]] * 2] * 2
