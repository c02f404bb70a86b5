"""Control maps: ours against controlnet_aux's (the Python package) of the same method, one process.

controlnet_aux is taken from --aux, a folder in which it lies with einops and OpenCV
(`pip install --no-deps --target DIR controlnet-aux==0.0.10 einops scipy`); its own __init__, which
wants torchvision and more, is passed by. Networks have random weights, the same ones on both
sides. Both sides begin and end as nodes of ComfyUI do, with a float tensor (theirs from uint8 and
back, as the nodes around it do it); theirs works at sides that are multiples of 64, so at 1344 for
1328. Networks see --network-side. Sides take turns, best of
--rounds; seconds are the process's own time on the processor, so other work disturbs them little.

python bench/preprocess.py --aux DIR --threads 1
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness

if TYPE_CHECKING:
    import argparse

    from torch import Tensor, nn

Work = Callable[[], object]
Case = tuple[str, int, Work, Work | None, str]


@dataclass
class Row:
    """One method: seconds of both sides; `note` where the other cannot run or is another method."""

    name: str
    side: int
    ours: float
    theirs: float | None
    note: str = ""


def aux(folder: str) -> None:
    """Makes controlnet_aux.hed and others importable without the package's own __init__."""
    sys.path.append(folder)
    folder_of_package = Path(folder) / "controlnet_aux"
    if not folder_of_package.is_dir():
        raise SystemExit(f"{folder} holds no controlnet_aux: see --help")
    package = types.ModuleType("controlnet_aux")
    package.__path__ = [str(folder_of_package)]
    sys.modules["controlnet_aux"] = package
    import transformers  # noqa: F401 - asks for torchvision once, before the stub below
    from scipy import ndimage

    filters = types.ModuleType("scipy.ndimage.filters")  # gone from newer SciPy
    filters.gaussian_filter = ndimage.gaussian_filter
    sys.modules["scipy.ndimage.filters"] = filters
    if importlib.util.find_spec("torchvision") is None:  # its faces import two names, unused here
        transforms = types.ModuleType("torchvision.transforms")
        transforms.ToPILImage = transforms.ToTensor = types.SimpleNamespace
        sys.modules["torchvision.transforms"] = transforms
        sys.modules["torchvision"] = types.ModuleType("torchvision")


def part(name: str) -> types.ModuleType:
    return importlib.import_module(f"controlnet_aux.{name}")


def scene(side: int) -> Tensor:
    """A picture with edges, shadings and grain [1,side,side,3] of 0..1 on the 255 grid."""
    import torch

    line = torch.linspace(0, 1, side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    rings = ((x * 7).sin() * (y * 5).cos() * 4).round() / 4
    image = torch.stack([rings, x, y], -1) * 0.4 + 0.3
    image += torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) * 0.05
    return (image.clamp(0, 1) * 255).round()[None] / 255


def random_(model: nn.Module, gain: float = 2.0) -> nn.Module:
    """Weights that keep the size of signals."""
    import torch

    torch.manual_seed(0)
    for x in model.parameters():
        if x.dim() == 4:
            x.data = torch.randn_like(x) * math.sqrt(gain / x[0].numel())
        else:
            x.data = torch.zeros_like(x)
    return model.eval().requires_grad_(False)


def both(kind: str, side: int, knobs: dict, theirs: Callable) -> tuple[Work, Work]:
    from inkstone.controlnet.preprocess.kinds import preprocess

    picture = scene(side)
    return lambda: preprocess(kind, picture, knobs), lambda: as_node(theirs, picture)


def as_node(theirs: Callable, picture: Tensor) -> Tensor:
    """[1,side,side,3] float -> uint8 -> their map -> float, the way of the nodes around it."""
    import torch

    array = (picture[0] * 255).byte().numpy()
    return torch.from_numpy(theirs(array, {"detect_resolution": picture.shape[1]})).float() / 255


def cases(args: argparse.Namespace, folder: Path) -> Iterator[Case]:
    """(name, side, ours, theirs or None, remark) for every row."""
    from safetensors.torch import save_file

    canny, standard = part("canny").CannyDetector(), part("lineart_standard")
    standard = standard.LineartStandardDetector()
    big, small = args.side, args.network_side
    whole = {"image_resolution": big, "output_type": "np"}
    part_size = {"image_resolution": small, "output_type": "np"}
    yield "canny", big, *both("canny", big, {}, lambda a, s: canny(a, **s, **whole)), ""
    yield (
        "lineart, no network",
        big,
        *both("lineart", big, {}, lambda a, s: standard(a, **s, output_type="np")),
        "",
    )
    hed = random_(part("hed").ControlNetHED_Apache2())
    save_file(hed.state_dict(), folder / "hed.safetensors")
    hed = part("hed").HEDdetector(hed)
    edges = lambda a, s: hed(a, **s, **part_size, safe=True)  # noqa: E731
    weights = {"model": str(folder / "hed.safetensors")}
    yield "soft edge, HED", small, *both("soft_edge", small, weights, edges), ""
    note = "theirs: HED, it has no other"
    yield "soft edge, no network", small, *both("soft_edge", small, {}, edges), note
    yield "soft edge, no network", big, both("soft_edge", big, {}, edges)[0], None, ""
    net = random_(part("lineart").Generator(3, 1, 3))
    save_file(net.state_dict(), folder / "sk_model.safetensors")
    net = part("lineart").LineartDetector(net, net)
    lines = lambda a, s: net(a, **s, **part_size)  # noqa: E731
    weights = {"model": str(folder / "sk_model.safetensors")}
    yield "lineart, generator", small, *both("lineart", small, weights, lines), ""
    yield from pose(args)
    yield from depth(folder, small)


def pose(args):
    """Theirs is another network for the same task; random weights detect nobody, which saves it the
    grouping of joints. Ours looks for people and, in any case, takes one person's time.
    """
    import torch

    from inkstone.controlnet.preprocess import people, pose_net
    from inkstone.controlnet.preprocess.filters import planes

    open_pose = part("open_pose")
    body = open_pose.Body.__new__(open_pose.Body)
    body.model = random_(importlib.import_module("controlnet_aux.open_pose.model").bodypose_model())
    for x in body.model.parameters():
        x.data *= 0.5
    theirs = open_pose.OpenposeDetector(body)
    side = args.network_side
    picture = scene(side)
    array = (picture[0] * 255).round().byte().numpy()

    def ours():
        device = torch.device("cpu")
        detect, marks = (pose_net.load(name, device) for name in ("detect", "marks"))
        x = planes(picture)
        people.places(detect, x)
        for _ in range(2):
            cut = people.crop(x, people.Place(side / 2, side / 2, side, 0.0))
            people._both_ways(marks, cut)

    def other():
        return theirs(array, detect_resolution=side, image_resolution=side, output_type="np")

    yield "pose, one person", side, ours, other, "theirs: OpenPose's body network"


def depth(folder: Path, side: int):
    import torch
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    from inkstone.controlnet.preprocess.kinds import preprocess

    backbone = Dinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        num_hidden_layers=12,
        image_size=518,
        patch_size=14,
        out_indices=[3, 6, 9, 12],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=384,
        neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64,
        head_hidden_size=32,
        patch_size=14,
    )
    model = DepthAnythingForDepthEstimation(config).eval()
    model.save_pretrained(folder / "depth")
    picture = scene(side)

    def theirs():
        with torch.no_grad():
            x = picture.movedim(-1, 1)
            x = torch.nn.functional.interpolate(x, (518, 518), mode="bicubic", antialias=True)
            depth = model((x - 0.45) / 0.22).predicted_depth[:, None]
            return torch.nn.functional.interpolate(depth, (side, side), mode="bilinear")

    yield (
        "depth, Depth-Anything V2 S",
        side,
        lambda: preprocess("depth", picture, {"model": str(folder / "depth")}),
        theirs,
        "theirs: transformers, already loaded",
    )
    yield (
        "depth, layout guess",
        side,
        lambda: preprocess("depth", picture),
        None,
        "controlnet_aux: MiDaS and Zoe need timm and torchvision, which are not here",
    )


def measured(name: str, side: int, work: tuple[Work, Work | None], rounds: int, note: str) -> Row:
    best = [math.inf, math.inf]
    for _ in range(rounds + 1):
        for i, run in enumerate(work):
            if run is not None:
                start = time.process_time()
                run()
                best[i] = min(best[i], time.process_time() - start)
        if sum(b for b in best if b < math.inf) > 20:
            break  # long ones once
    print(name, side, *(f"{b:.3f}" for b in best), file=sys.stderr)
    return Row(name, side, best[0], best[1] if best[1] < math.inf else None, note)


def main() -> None:
    p = harness.parser(__doc__)
    p.add_argument("--aux", required=True, help="the folder that holds controlnet_aux")
    p.add_argument("--side", type=int, default=1328)
    p.add_argument("--network-side", type=int, default=512)
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    import cv2

    cv2.setNumThreads(args.threads)
    aux(args.aux)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measured(name, side, (ours, theirs), args.rounds, note)
            for name, side, ours, theirs, note in cases(args, Path(folder))
        ]
    facts = common.facts(args)
    title = "control maps against controlnet_aux 0.0.10, seconds"
    cells: common.Cells = [("", "side", "ours", "theirs", "ratio", "remark")]
    for r in rows:
        theirs = f"{r.theirs:.3f}" if r.theirs else "-"
        cells.append(
            (r.name, str(r.side), f"{r.ours:.3f}", theirs, common.ratio(r.ours, r.theirs), r.note)
        )
    if args.json:
        print(json.dumps({"title": title, **facts, "rows": [asdict(r) for r in rows]}, indent=1))
    else:
        print(common.report(title, cells, facts))


if __name__ == "__main__":
    main()
