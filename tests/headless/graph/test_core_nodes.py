"""Our stand-ins of core nodes: what each does here, and bit for bit the same in a real ComfyUI."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inkstone.headless.core_nodes.registry import CORE_NODES
from inkstone.headless.graph.api_graph import parse_graph
from inkstone.headless.graph.executor import Executor
from inkstone.host.headless import HeadlessHost

from ...support.comfy_install import given_source


def graph() -> dict[str, dict]:
    """Every picture and mask node on an odd picture with alpha; each result is saved."""
    nodes: dict[str, dict] = {}

    def add(kind: str, **inputs) -> str:
        key = str(len(nodes) + 1)
        nodes[key] = {"class_type": kind, "inputs": inputs}
        return key

    def save(name: str, key: str, mask: bool = False, slot: int = 0) -> None:
        if mask:
            key, slot = add("MaskToImage", mask=[key, slot]), 0
        add("SaveImage", images=[key, slot], filename_prefix=name)

    a, b = (add("LoadImage", image=f"{name}.png") for name in "ab")
    image, other, mask = [a, 0], [b, 0], [a, 1]
    scaled = add(
        "ImageScale", image=image, upscale_method="bicubic", width=64, height=0, crop="disabled"
    )
    save("scale", scaled)
    for method in ("nearest-exact", "bilinear", "area", "bicubic", "lanczos"):
        save(f"by_{method}", add("ImageScaleBy", image=image, upscale_method=method, scale_by=1.37))
        save(
            f"side_{method}",
            add("ImageScaleToMaxDimension", image=image, upscale_method=method, largest_size=41),
        )
    save(
        "pixels",
        add(
            "ImageScaleToTotalPixels",
            image=image,
            upscale_method="area",
            megapixels=0.01,
            resolution_steps=1,
        ),
    )
    size = add("GetImageSize", image=image)
    save(
        "size",
        add("EmptyImage", width=[size, 0], height=[size, 1], batch_size=[size, 2], color=0x123456),
    )
    save("crop", add("ImageCrop", image=image, width=30, height=99, x=20, y=9))
    for feather in (0, 7, 40):
        pad = add(
            "ImagePadForOutpaint",
            image=image,
            left=8,
            top=0,
            right=16,
            bottom=8,
            feathering=feather,
        )
        save(f"pad_{feather}", pad)
        save(f"pad_mask_{feather}", pad, True, 1)
    both = add("ImageBatch", image1=image, image2=other)
    save("batch", both)
    save("repeat", add("RepeatImageBatch", image=[both, 0], amount=2))
    save("taken", add("ImageFromBatch", image=[both, 0], batch_index=1, length=9))
    save("invert", add("ImageInvert", image=image))
    for name, more in (("plain", {}), ("mask", {"mask": mask})):
        for resized in (False, True):
            save(
                f"over_{name}_{resized}",
                add(
                    "ImageCompositeMasked",
                    destination=other,
                    source=image,
                    x=11,
                    y=5,
                    resize_source=resized,
                    **more,
                ),
            )
    save("clear", add("JoinImageWithAlpha", image=other, alpha=mask))
    save("red", add("ImageToMask", image=image, channel="red"), True)
    save("threshold", add("ThresholdMask", mask=mask, value=0.4), True)
    save("crop_mask", add("CropMask", mask=mask, x=3, y=5, width=20, height=70), True)
    save("flip", add("ImageFlip", image=image, flip_method="x-axis: vertically"))
    save("mirror", add("ImageFlip", image=image, flip_method="y-axis: horizontally"))
    for turn in ("90 degrees", "180 degrees", "270 degrees"):
        save(f"turn_{turn[:3].strip()}", add("ImageRotate", image=image, rotation=turn))
    save("grow", add("GrowMask", mask=mask, expand=3, tapered_corners=True), True)
    save("inverted", add("InvertMask", mask=mask), True)
    save("from_file", add("LoadImageMask", image="a.png", channel="green"), True)
    text = add("StringConcatenate", string_a="a", string_b="b", delimiter="-")
    add("PreviewAny", source=[text, 0])
    return nodes


def put_pictures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    for name, shape in (("a", (37, 53, 4)), ("b", (48, 40, 3))):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{name}.png")


def headless(tmp_path: Path) -> dict[str, np.ndarray]:
    put_pictures(tmp_path / "input")
    host = HeadlessHost(input=tmp_path / "input", output=tmp_path / "out", temp=tmp_path / "temp")
    result = Executor(CORE_NODES).run(parse_graph(graph()), host)
    assert {"text": ("a-b",)} in result.outputs.values()
    files = sorted((tmp_path / "out").glob("*.png"))
    return {file.name: np.asarray(Image.open(file)) for file in files}


def test_steps_of_a_resolution():
    """120 x 88 of 118.2 x 88.7, as newer versions of the node round."""
    from inkstone.headless.core_nodes.scaling import scale_to_pixels

    picture = torch.zeros(1, 48, 64, 3)
    assert scale_to_pixels(picture, "area", 0.01, 8).shape == (1, 88, 120, 3)


def test_every_node_gives_pictures_of_the_right_size(tmp_path):
    pictures = headless(tmp_path)
    sizes = {name.partition("_0000")[0]: item.shape[1::-1] for name, item in pictures.items()}
    assert sizes["scale"] == (64, 45) and sizes["by_area"] == (73, 51)
    assert sizes["side_area"] == (41, 29) and sizes["size"] == (53, 37)
    assert sizes["crop"] == (30, 28) and sizes["pad_7"] == (77, 45)
    assert sizes["turn_90"] == (37, 53) and sizes["over_mask_True"] == (40, 48)
    whole = np.asarray(Image.open(tmp_path / "input" / "a.png"))[..., :3]
    assert np.array_equal(pictures["turn_90_00001_.png"], np.rot90(whole, -1))
    assert np.array_equal(pictures["pad_0_00001_.png"][:37, 8:61], whole)


def test_latents_keep_their_numbers():
    import torch

    repeat, take = (CORE_NODES[n].execute for n in ("RepeatLatentBatch", "LatentFromBatch"))
    latent = {"samples": torch.arange(3.0).reshape(3, 1, 1, 1)}
    latent["noise_mask"] = torch.ones(1, 1, 2, 2)
    twice = repeat(samples=latent, amount=2).args[0]
    assert twice["samples"].flatten().tolist() == [0, 1, 2, 0, 1, 2]
    part = take(samples=latent, batch_index=1, length=5).args[0]
    assert part["samples"].flatten().tolist() == [1, 2] and part["batch_index"] == [1, 2]
    again = repeat(samples=part, amount=2).args[0]
    assert again["batch_index"] == [1, 2, 3, 4]
    zero = CORE_NODES["ConditioningZeroOut"].execute(
        conditioning=[[torch.ones(1, 2, 3), {"pooled_output": None, "x": 1}]]
    )
    ((states, options),) = zero.args[0]
    assert not states.any() and options == {"pooled_output": None, "x": 1}


@pytest.mark.comfyui
@pytest.mark.skipif(given_source() is None, reason="needs INKSTONE_COMFYUI_SOURCE")
def test_pictures_are_those_of_a_real_comfyui(tmp_path):
    from ...support.comfy_server import ComfyServer

    ours, base = headless(tmp_path / "ours"), tmp_path / "base"
    put_pictures(base / "input")
    with ComfyServer(given_source(), packs=(), base=base) as server:
        nodes, classes = graph(), server.get("/object_info")
        for node in nodes.values():  # what older versions of a node lack
            takes = classes[node["class_type"]]["input"]
            node["inputs"] = {
                k: v
                for k, v in node["inputs"].items()
                if k != "resolution_steps" or k in takes["required"]
            }
        result = server.run(nodes)
    theirs = {p.filename: np.asarray(Image.open(io.BytesIO(p.data))) for p in result.images}
    assert set(theirs) == set(ours)
    off = {
        name: int(np.abs(picture.astype(int) - ours[name].astype(int)).max())
        if picture.shape == ours[name].shape
        else [picture.shape, ours[name].shape]
        for name, picture in theirs.items()
        if picture.shape != ours[name].shape or not np.array_equal(picture, ours[name])
    }
    assert not off, json.dumps(off, default=str)
