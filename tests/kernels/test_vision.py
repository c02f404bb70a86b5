"""The vision tower and pictures in the language model, against transformers and diffusers."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from inkstone.errors import InkstoneError
from inkstone.kernels.configs import TextConfig, VisionConfig
from inkstone.kernels.text_encoder import TextEncoder, picture_positions
from inkstone.kernels.vision import VisionTower, window_order
from inkstone.loaders.arch.expected_tensors import vision_layout
from inkstone.loaders.arch.family import EDIT, EDIT_PLUS, QWEN_IMAGE
from inkstone.loaders.arch.header_view import HeaderView
from inkstone.loaders.arch.key_maps import KeyMap
from inkstone.loaders.formats.open import open_weights
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.memory.residency import place
from inkstone.loaders.models.image_processor import rgb_bytes, tower_pixels
from inkstone.loaders.models.load import load_text_encoder
from inkstone.loaders.models.vision import TowerOptions, _settings, open_tower, vision_config
from inkstone.loaders.models.vision_gguf import VisionFile
from inkstone.loaders.models.weight_file import LoadOptions, weight_file
from inkstone.sampling.geometry import area_size, encoder_sizes, vision_patches, vision_size

from ..support import tiny
from ..support.oracle import fill, relative

transformers = pytest.importorskip("transformers")
PAD = 261  # <|image_pad|> of the toy tokenizer
MOST = 12845056  # pixels, preprocessor_config.json of Qwen-Image-Edit
CONFIGS = {
    "two full blocks": VisionConfig(4, 64, 2, 60, out=48, full=(1, 3)),
    "three heads, small windows": VisionConfig(3, 96, 3, 100, out=32, window=56, full=(2,)),
}
SIZES = (
    (33, 47),
    (47, 33),
    (1, 1),
    (7, 300),
    (300, 7),
    (61, 61),
    (113, 127),
    (224, 112),
    (225, 113),
    (251, 509),
    (509, 251),
    (337, 991),
    (401, 401),
    (449, 449),
    (113, 29),
    (29, 113),
    (167, 561),
    (673, 223),
    (57, 1009),
    (785, 113),
)


def their_vision(c: VisionConfig) -> dict:
    """The same numbers as transformers calls them."""
    return dict(
        depth=c.depth,
        hidden_size=c.width,
        intermediate_size=c.ff,
        num_heads=c.heads,
        out_hidden_size=c.out,
        window_size=c.window,
        fullatt_block_indexes=list(c.full),
    )


def towers(c: VisionConfig):
    """(transformers' tower, ours) with one set of random weights."""
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as modeling
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

    torch.manual_seed(5)
    theirs = modeling.Qwen2_5_VisionTransformerPretrainedModel(
        Qwen2_5_VLVisionConfig(**their_vision(c))
    )
    ours = VisionTower(c)
    ours.load_state_dict(fill(theirs).state_dict())
    return theirs, ours.eval()


@pytest.fixture(scope="module")
def pairs():
    return {name: towers(c) for name, c in CONFIGS.items()}


def grid_of(width: int, height: int) -> tuple[int, int]:
    across, down = vision_size(width, height)
    return down // 14, across // 14


def run_theirs(tower, patches: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Their input has both frames of a patch: (channel, frame, 14, 14)."""
    both = patches.view(-1, 3, 1, 196).expand(-1, -1, 2, -1).reshape(len(patches), -1)
    return tower(both.to(tower.dtype), grid_thw=torch.tensor([[1, *grid]])).pooler_output


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("name", CONFIGS)
def test_tower(pairs, name, size):
    theirs, ours = pairs[name]
    grid = grid_of(*size)
    patches = torch.randn(grid[0] * grid[1], 588)
    with torch.no_grad():
        want, got = run_theirs(theirs, patches, grid), ours(patches, grid)
    error = relative(got, want)
    assert error < 1e-5, f"relative error {error:.2e} on {grid[0]} x {grid[1]} patches"


@pytest.mark.parametrize("grid", [(22, 36), (10, 28)])
def test_tower_in_bf16(grid):
    """No further from float32 than the reference's own bf16."""
    theirs, ours = towers(CONFIGS["two full blocks"])
    patches = torch.randn(grid[0] * grid[1], 588)
    with torch.no_grad():
        exact = ours(patches, grid)
        want = run_theirs(theirs.bfloat16(), patches, grid)
        got = ours.bfloat16()(patches, grid)
    assert got.dtype == torch.bfloat16
    error, theirs_error = relative(got, exact), relative(want, exact)
    assert error < max(2e-2, 1.1 * theirs_error), f"{error:.2e}, reference {theirs_error:.2e}"


@pytest.mark.parametrize("rows, columns", [(1, 1), (4, 4), (5, 14), (11, 18), (37, 37), (3, 9)])
def test_windows_are_the_references(rows, columns):
    """The same sets of cells; in ours those of one size follow each other, in few groups."""
    from transformers.vision_utils import get_vision_window_index

    grid = torch.tensor([[1, 2 * rows, 2 * columns]])
    index, ends = get_vision_window_index(grid, 2, 112, 14)
    want = {tuple(index[a // 4 : b // 4].tolist()) for a, b in zip(ends, ends[1:])}
    order, groups = window_order(rows, columns, 4)
    lengths = [size for windows, size in groups for _ in range(windows)]
    got = {tuple(part.tolist()) for part in order.split(lengths)}
    assert got == want and len(lengths) == len(want) and len(groups) <= 4


def test_names_and_shapes_are_the_published():
    with torch.device("meta"):
        network = VisionTower()
    got = {f"visual.{name}": tuple(p.shape) for name, p in network.named_parameters()}
    assert got == vision_layout(VisionConfig())
    assert sum(p.numel() for p in network.parameters()) == 676_550_144
    out = network(torch.empty(22 * 36, 588, device="meta"), (22, 36))
    assert out.shape == (198, 3584)


def test_published_numbers_from_shapes_alone():
    """A single file tells neither heads nor windows."""
    assert vision_config(vision_layout(VisionConfig()), {}, "f") == VisionConfig()


# --- sizes and pixels


def test_sizes_are_the_references():
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    rng = random.Random(3)
    for _ in range(3000):
        w, h = rng.randint(1, 5000), rng.randint(1, 5000)
        if max(w, h) / min(w, h) <= 200:
            height, width = smart_resize(h, w, max_pixels=MOST)
            assert vision_size(w, h) == (width, height), (w, h)
        for area in (384 * 384, 1024 * 1024):
            assert area_size(w, h, area) == calculate_dimensions(area, w / h), (w, h)
    assert encoder_sizes(1024, 1024, EDIT.area) == ((1024, 1024), (1036, 1036))
    assert encoder_sizes(4000, 3000, EDIT_PLUS.area)[0] == (448, 320)


def image(width: int, height: int, seed: int = 0):
    """A PIL picture with edges and gradients, and the same as our float tensor."""
    from PIL import Image

    g = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0, 160, width)[None, :, None] + torch.zeros(height, 1, 3)
    noise = torch.randint(0, 96, (height, width, 3), generator=g)
    pixels = (ramp + noise).to(torch.uint8)
    return Image.fromarray(pixels.numpy()), pixels.float() / 255


def processor():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(max_pixels=MOST)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(33, 47), (640, 360), (1, 1), (1031, 503)])
@pytest.mark.parametrize("edit", (EDIT, EDIT_PLUS), ids=lambda e: e.name)
def test_pixels_are_the_references(size, edit):
    from diffusers.image_processor import VaeImageProcessor

    theirs, ours = image(*size)
    copy = VaeImageProcessor(vae_scale_factor=16).resize(theirs, *area_size(*size, edit.area)[::-1])
    want = processor()(images=copy, return_tensors="pt")
    pixels = tower_pixels(rgb_bytes(ours), edit.area)
    assert [1, pixels.shape[1] // 14, pixels.shape[2] // 14] == want["image_grid_thw"][0].tolist()
    first = want["pixel_values"].view(-1, 3, 2, 196)[:, :, 0].flatten(1)
    worst = (vision_patches(pixels, 14, 2) - first).abs().max().item()
    assert worst < 1e-5, f"normalised pixels differ by {worst:g}"


def test_alpha_and_grey():
    _, rgb = image(40, 30)
    assert torch.equal(rgb_bytes(torch.cat([rgb, torch.rand(30, 40, 1)], 2)), rgb_bytes(rgb))
    grey = rgb[..., :1]
    assert torch.equal(rgb_bytes(grey), rgb_bytes(grey.expand(-1, -1, 3)))
    assert torch.equal(rgb_bytes(rgb[None]), rgb_bytes(rgb))


# --- pictures in the language model


def models(width: int = 32, kv: int = 1):
    """A tiny Qwen2.5-VL of transformers with random weights."""
    c = dataclasses.replace(CONFIGS["two full blocks"], out=width)
    text = dict(
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=kv,
        vocab_size=300,
        rms_norm_eps=1e-6,
        bos_token_id=None,
        eos_token_id=None,
        rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[2, 3, 3]),
    )
    config = transformers.Qwen2_5_VLConfig(
        image_token_id=PAD, text_config=text, vision_config=their_vision(c)
    )
    torch.manual_seed(6)
    return fill(transformers.Qwen2_5_VLForConditionalGeneration(config))


@pytest.fixture(scope="module")
def encoder():
    return models()


def with_types(model):
    """transformers 5 takes M-RoPE only from token types, which diffusers does not pass."""
    plain = model.forward

    def forward(input_ids=None, **rest):
        types = (input_ids == PAD).int()
        return plain(input_ids=input_ids, mm_token_type_ids=types, **rest)

    return forward


def sequence(grids):
    """Ids with text before, between and behind pictures of these patch grids."""
    ids = [3, 9, 27]
    for rows, columns in grids:
        ids += [7, 259] + [PAD] * (rows * columns // 4) + [260]
    return [*ids, 5, 6, 7, 8]


@pytest.mark.parametrize(
    "grids",
    [[(22, 36)], [(4, 6), (10, 28)], [(2, 2), (18, 4), (6, 6)]],
    ids=["one", "two", "three"],
)
def test_states_with_pictures(encoder, grids):
    """Against the reference with token types; without them it numbers picture tokens like text."""
    patches = [torch.randn(rows * columns, 588) for rows, columns in grids]
    ids = sequence(grids)
    both = torch.cat(patches).view(-1, 3, 1, 196).expand(-1, -1, 2, -1).flatten(1)
    call = dict(
        input_ids=torch.tensor([ids]),
        pixel_values=both,
        output_hidden_states=True,
        image_grid_thw=torch.tensor([[1, *grid] for grid in grids]),
    )
    tower = VisionTower(dataclasses.replace(CONFIGS["two full blocks"], out=32))
    text = TextEncoder(TextConfig(2, 32, 2, 1, 16, 64, 300))
    tower.load_state_dict(encoder.model.visual.state_dict())
    text.load_state_dict(encoder.model.language_model.state_dict())
    with torch.no_grad():
        want = with_types(encoder)(**call).hidden_states[-1]
        wrong = encoder(**call).hidden_states[-1]
        rows = torch.cat([tower(p, grid) for p, grid in zip(patches, grids)])
        embeds = text.embed(call["input_ids"])
        embeds[call["input_ids"] == PAD] = rows
        positions = picture_positions(ids, PAD, [(r // 2, c // 2) for r, c in grids])
        got, _ = text(call["input_ids"], None, embeds, positions)
        _, past = text(call["input_ids"][:, :3])
        tail, _ = text(call["input_ids"][:, 3:], past, embeds[:, 3:], positions[:, 3:])
    types = (call["input_ids"] == PAD).int()
    theirs, _ = encoder.model.get_rope_index(call["input_ids"], types, call["image_grid_thw"])
    assert torch.equal(positions, theirs[:, 0])
    error, again, trap = relative(got, want), relative(tail, got[:, 3:]), relative(wrong, want)
    assert error < 1e-5, f"relative error {error:.2e}"
    assert again < 1e-5, f"behind a kept prefix {again:.2e}"
    assert trap > 1e-2, f"the reference without token types differs by only {trap:.2e}"


def save_encoder(model, folder, rename=None):
    """A folder as diffusers writes it: text_encoder/ and tokenizer/."""
    model.save_pretrained(folder / "text_encoder")
    tiny.tokenizer().save_pretrained(folder / "tokenizer")
    if rename:
        path = folder / "text_encoder" / "model.safetensors"
        with open_weights(path) as file:
            tensors = {rename(n): file.read(n).clone() for n in file.entries}
        save_safetensors(path, tensors, None)
    return folder


@pytest.fixture(scope="module")
def folder(encoder, tmp_path_factory):
    return save_encoder(encoder, tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def ours(folder):
    return load_text_encoder(folder)


class Processor:
    """What their processor does, without torchvision."""

    def __init__(self) -> None:
        self.tokenizer, self.images = tiny.tokenizer(), processor()

    def __call__(self, text, images, padding, return_tensors):
        seen = self.images(images=images, return_tensors="pt")
        counts = iter((seen["image_grid_thw"].prod(1) // 4).tolist())
        pad = "<|image_pad|>"
        parts = text[0].split(pad)
        full = parts[0] + "".join(pad * next(counts) + part for part in parts[1:])
        return transformers.BatchFeature(dict(self.tokenizer(full, return_tensors="pt"), **seen))


def pipeline(name: str, model):
    import diffusers

    kind = {"edit": "QwenImageEditPipeline", "edit-plus": "QwenImageEditPlusPipeline"}[name]
    return getattr(diffusers, kind)(
        scheduler=None,
        vae=None,
        text_encoder=model,
        tokenizer=tiny.tokenizer(),
        processor=Processor(),
        transformer=None,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, sizes, prompt",
    [
        ("edit", [(90, 61)], "make the {sky} red"),
        ("edit", [(33, 470)], " "),
        ("edit-plus", [(33, 47)], " "),
        ("edit-plus", [(640, 301), (47, 90)], "a 招牌"),
        ("edit-plus", [(64, 64), (300, 101), (101, 300)], "put 1 into 3"),
    ],
)
def test_states_of_an_edit(encoder, ours, monkeypatch, name, sizes, prompt):
    """prompt_embeds of the pipelines, with the positions that they mean."""
    edit = QWEN_IMAGE.edit(name)
    pictures = [image(*size, seed=n) for n, size in enumerate(sizes)]
    pipe = pipeline(name, encoder)
    copies = [
        pipe.image_processor.resize(theirs, *area_size(*theirs.size, edit.area)[::-1])
        for theirs, _ in pictures
    ]
    copies = copies[0] if name == "edit" else copies
    with torch.no_grad():
        wrong, _ = pipe.encode_prompt(prompt, image=copies)
        monkeypatch.setattr(encoder, "forward", with_types(encoder))
        want, mask = pipe.encode_prompt(prompt, image=copies)
    assert mask is None
    got = ours.encode_edit(prompt, [p for _, p in pictures], edit)
    assert got.shape == want.shape, f"{list(got.shape)} {list(want.shape)}"
    error, trap = relative(got, want), relative(wrong, want)
    assert error < 1e-5, f"relative error {error:.2e}"
    assert trap > 1e-2, f"the pipeline with plain positions differs by only {trap:.2e}"


def test_in_bf16(folder, ours):
    half = load_text_encoder(folder, LoadOptions(torch.bfloat16))
    _, picture = image(90, 61)
    got, want = (m.encode_edit("a", [picture], EDIT_PLUS) for m in (half, ours))
    assert got.dtype == half.vision.open().network.merger.mlp[0].weight.dtype == torch.bfloat16
    error = relative(got, want)
    assert error < 4e-2, f"relative error {error:.2e}"


@pytest.mark.slow
def test_nothing_is_encoded_twice(folder, monkeypatch):
    model = load_text_encoder(folder)
    assert model.vision._model is None, "opened before an edit asks"
    model.encode("a cat")
    assert model.vision._model is None
    tower, calls = model.vision.open(), []
    assert tower.weights.placement is None, "read before an edit asks"
    encode, forward = tower._encode, TextEncoder.forward
    monkeypatch.setattr(tower, "_encode", lambda *a: calls.append("tower") or encode(*a))
    monkeypatch.setattr(
        TextEncoder, "forward", lambda self, *a: calls.append("text") or forward(self, *a)
    )
    pictures = [image(40, 30)[1], image(30, 40)[1]]
    first = model.encode_edit("red", pictures, EDIT_PLUS)
    assert calls == ["tower", "tower", "text", "text"]  # of the latter one is the kept head
    assert torch.equal(model.encode_edit("red", [p.clone() for p in pictures], EDIT_PLUS), first)
    assert len(calls) == 4
    model.encode_edit("blue", pictures, EDIT_PLUS)
    assert calls[4:] == ["text"]
    swapped = model.encode_edit("red", pictures[::-1], EDIT_PLUS)
    assert calls[5:] == ["text"] and not torch.equal(swapped, first)
    model.encode_edit("red", pictures[:1], EDIT)
    assert calls[6:] == ["tower", "text"]


def test_streamed_from_the_file(folder, ours):
    """The tower block by block gives the same bits."""
    model = load_text_encoder(folder)
    tower, (_, picture) = model.vision.open(), image(90, 61)
    rest, groups = tower.weights.sizes
    tower.weights._arrange(place(rest, groups, rest + 2 * max(groups)))
    assert tower.network.stream is not None
    monkey = tower.weights.settle
    tower.weights.settle = lambda *_: None
    got = tower.encode(picture, EDIT_PLUS.area).rows
    tower.weights.settle = monkey
    want = ours.vision.open().encode(picture, EDIT_PLUS.area).rows
    tower.weights.park()
    assert torch.equal(got, want)


# --- files


def old_layout(name: str) -> str:
    """Names of the first Qwen2.5-VL files."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def new_layout(name: str) -> str:
    """Names of the modules of transformers 5."""
    if name.startswith("visual."):
        return f"model.{name}"
    inner = name.startswith("model.") and not name.startswith(("model.visual.", "model.language_"))
    return name.replace("model.", "model.language_model.", 1) if inner else name


@pytest.mark.parametrize("rename", [old_layout, new_layout])
def test_both_layouts(encoder, ours, tmp_path, rename):
    folder = save_encoder(encoder, tmp_path, rename)
    with open_weights(folder / "text_encoder" / "model.safetensors") as file:
        start = "visual." if rename is old_layout else "model.visual."
        assert any(name.startswith(start) for name in file.entries)
    _, picture = image(90, 61)
    got = load_text_encoder(folder).encode_edit("a", [picture], EDIT_PLUS)
    assert torch.equal(got, ours.encode_edit("a", [picture], EDIT_PLUS))


def test_tower_of_a_gguf_encoder(tmp_path):
    """An mmproj file beside it, one matrix packed."""
    gguf = pytest.importorskip("gguf")
    from ..loaders.test_gguf_text import encoder, random_tensors, tower

    numbers = VisionConfig(depth=2, width=80, ff=60, out=256)
    near = encoder(tmp_path / "Qwen2.5-VL-7B-Q8_0.gguf", gguf.GGMLQuantizationType.Q8_0)
    kinds = {"mm.0.weight": gguf.GGMLQuantizationType.Q8_0}
    tower(tmp_path / "mmproj.gguf", kinds, numbers)
    tiny.tokenizer().save_pretrained(tmp_path / "tokenizer")
    model = load_text_encoder(near)
    plain = VisionTower(VisionConfig(2, 80, 1, 60, out=256, full=()))
    shapes = vision_layout(numbers)
    tensors = {n.removeprefix("visual."): t for n, t in random_tensors(shapes).items()}
    _, picture = image(90, 61)
    found = model.vision.open()
    got = found.encode(picture, EDIT_PLUS.area).rows
    assert found.network.merger.mlp[0].storage.format == "Q8_0"
    tensors["merger.mlp.0.weight"] = found.network.merger.mlp[0].dequantize()
    plain.load_state_dict(tensors)
    pixels = tower_pixels(rgb_bytes(picture), EDIT_PLUS.area)
    with torch.no_grad():
        want = plain(vision_patches(pixels, 14, 2), (pixels.shape[1] // 14, pixels.shape[2] // 14))
    error = relative(got, want)
    assert error < 1e-5, f"relative error {error:.2e}"
    assert model.encode_edit("a", [picture], EDIT_PLUS).shape[2] == 256


def test_a_missing_tower_is_told_only_by_an_edit(encoder, tmp_path):
    folder = save_encoder(encoder, tmp_path)
    path = folder / "text_encoder" / "model.safetensors"
    with open_weights(path) as file:
        kept = {n: file.read(n).clone() for n in file.entries if "visual." not in n}
    save_safetensors(path, kept, None)
    model = load_text_encoder(folder)
    assert model.encode("a cat").shape[0] == 1
    with pytest.raises(InkstoneError, match="vision tower is missing.*qwen_2.5_vl_7b.safetensors"):
        model.encode_edit("a", [torch.rand(30, 30, 3)], EDIT)


@pytest.mark.parametrize(
    "change",
    [
        lambda t, at: t.pop(at + "blocks.1.attn.qkv.bias"),
        lambda t, at: t.update({at + "blocks.1.attn.qkv.bias": torch.ones(3)}),
        lambda t, at: t.update({at + "blocks.1.attn.qkv.bias_2": torch.ones(3)}),
    ],
    ids=["missing", "shape", "unknown"],
)
def test_a_damaged_tower_is_told_at_load(encoder, tmp_path, change):
    folder = save_encoder(encoder, tmp_path)
    path = folder / "text_encoder" / "model.safetensors"
    with open_weights(path) as file:
        tensors = {n: file.read(n).clone() for n in file.entries}
    start = next(n for n in tensors if "visual." in n).partition("visual.")[0] + "visual."
    change(tensors, start)
    save_safetensors(path, tensors, None)
    with pytest.raises(InkstoneError, match="blocks.1.attn.qkv.bias"):
        load_text_encoder(folder)


def test_a_damaged_mmproj_is_told_by_an_edit(tmp_path):
    pytest.importorskip("gguf")
    from ..loaders.test_gguf_text import tower

    numbers = VisionConfig(depth=2, width=80, ff=60, out=256)
    with VisionFile(tower(tmp_path / "mmproj.gguf", vision=numbers)) as file:
        whole = {name: name for name in file.entries}
        want = TowerOptions(256, torch.float32, torch.device("cpu"))
        view = HeaderView(file.entries, file.metadata, {}, file)

        def opened(table, settings, options=want):
            return open_tower(weight_file(file, view, KeyMap(table)), settings, options)

        assert opened(whole, {}).network.config.heads == 1
        some = {n: n for n in whole if n != "visual.blocks.0.norm2.weight"}
        for table, told, words in (
            (some, {}, "1 tensors do not fit.*norm2.weight has shape nothing, expected .80."),
            ({n: n for n in whole if "patch" not in n}, {}, "cannot be built"),
            (whole, {"num_heads": 3}, "3 heads"),
            (whole, {"num_heads": "many"}, "'many' heads"),
            (whole, {"window_size": 14}, "windows of 14"),
            (whole, {"fullatt_block_indexes": 5}, "full blocks 5"),
        ):
            with pytest.raises(InkstoneError, match=words):
                opened(table, told)
        with pytest.raises(InkstoneError, match="of width 256, this one has 3584"):
            opened(whole, {}, dataclasses.replace(want, width=3584))


def test_what_an_mmproj_header_tells():
    told = _settings({"clip.vision.attention.head_count": "16", "clip.vision.n_wa_pattern": "8"})
    assert vision_config(vision_layout(VisionConfig()), told, "f") == VisionConfig()
    other = vision_config(vision_layout(VisionConfig()), {"num_heads": 20, "period": 4}, "f")
    assert other.heads == 20 and other.full == (3, 7, 11, 15, 19, 23, 27, 31)
    assert _settings({"clip.vision.n_wa_pattern": "0"}) == {}


# --- bad calls


@pytest.mark.parametrize(
    "pictures, prompt, edit, words",
    [
        ([], "a", EDIT, "take 1 picture, got 0. Connect a picture"),
        ([], "a", EDIT_PLUS, "at least 1 picture, got 0"),
        ([torch.rand(9, 9, 3)] * 2, "a", EDIT, "take 1 picture, got 2"),
        ([torch.rand(2, 9, 9, 3)], "a", EDIT, "one by one"),
        ([torch.rand(9, 9)], "a", EDIT, "expected one picture"),
        ([torch.rand(9, 9, 2)], "a", EDIT, "1, 3 or 4 channels"),
        ([torch.rand(0, 9, 3)], "a", EDIT, "expected one picture"),
        ([torch.full((9, 9, 3), torch.nan)], "a", EDIT, "no finite numbers"),
        ([torch.ones(9, 9, 3, dtype=torch.uint8)], "a", EDIT, "uint8"),
        ([torch.rand(10, 20000, 3)], "a", EDIT, "20000x10.*200:1. Crop"),
        ([torch.rand(190, 1, 3)], "a", EDIT, "1x190.*200:1"),  # its copy is narrower: 64 x 14112
        ([torch.rand(9, 9, 3)], "a <|image_pad|>", EDIT_PLUS, "Take it out of the prompt"),
    ],
)
def test_bad_calls_are_told(ours, pictures, prompt, edit, words):
    with pytest.raises(InkstoneError, match=words):
        ours.encode_edit(prompt, pictures, edit)


def test_the_smallest_picture(ours):
    assert torch.isfinite(ours.encode_edit("", [torch.rand(1, 1, 4)], EDIT_PLUS)).all()


def test_unknown_kinds_of_edit():
    with pytest.raises(InkstoneError, match="no edits of the kind 'layers'; it has edit, edit-p"):
        QWEN_IMAGE.edit("layers")


def test_places_must_fit_the_pictures():
    with pytest.raises(InkstoneError, match="1 pictures of 4 tokens"):
        picture_positions([1, PAD, PAD, 2], PAD, [(2, 2)])
