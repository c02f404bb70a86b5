"""What each storage format costs in quality: the checker's scores of the embedded model per type.

Every type is written by `inkstone quantize` (the diffusion model; the rest stays as shipped),
loaded as any user's file, and draws the same unseen prompts, which the reader judges. Beside it
the file's size and the relative error of its weights.

python bench/formats.py --prompts 200
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench import common, harness  # noqa: E402

harness.register()
from inkstone.headless.quantise import QuantiseCall, quantise  # noqa: E402
from inkstone.kernels.linear import Linear  # noqa: E402
from inkstone.loaders.bundle import EMBEDDED_FOLDER, load_all  # noqa: E402
from inkstone.training import evaluate, reader  # noqa: E402

TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "Q3_K_M", "Q2_K",
         "fp8_scaled", "BF16")  # fmt: skip
SHOWN = ("ground", "kind", "colour", "place", "size", "words", "letters", "stray", "all")


def folder_of(kind: str, work: Path) -> tuple[Path, int]:
    """A model folder with the diffusion model in this type, and the bytes of its file."""
    folder = work / kind
    ignore = shutil.ignore_patterns("transformer", "checkpoints")
    shutil.copytree(EMBEDDED_FOLDER, folder, ignore=ignore)
    (folder / "transformer").mkdir()
    shutil.copy(EMBEDDED_FOLDER / "transformer" / "config.json", folder / "transformer")
    name = "model.safetensors" if kind == "fp8_scaled" else "model.gguf"
    out = folder / "transformer" / name
    quantise(QuantiseCall(EMBEDDED_FOLDER, out, kind), lambda *_: None)
    return folder, out.stat().st_size


def weight_error(folder: Path) -> float:
    """Relative error of all large weights of the network together."""
    true, got = load_all(EMBEDDED_FOLDER).model.network, load_all(folder).model.network
    off = norm = 0.0
    for (_, a), (_, b) in zip(_linears(true), _linears(got), strict=True):
        off += (b.dequantise() - a.dequantise()).square().sum().item()
        norm += a.dequantise().square().sum().item()
    return (off / norm) ** 0.5


def _linears(network: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    return [(n, m) for n, m in network.named_modules() if isinstance(m, Linear)]


def main() -> None:
    p = harness.parser(__doc__)
    p.add_argument("--prompts", type=int, default=200)
    p.add_argument("--types", default=",".join(TYPES))
    p.add_argument("--fast", action="store_true", help="8 steps without CFG, not 20 with CFG 2")
    args = p.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(args.threads)
    scenes = evaluate.test_scenes(args.prompts)
    cells: common.Cells = [("type", "file kB", "weights", *SHOWN)]
    with tempfile.TemporaryDirectory() as work:
        shipped = EMBEDDED_FOLDER / "transformer" / "diffusion_pytorch_model.safetensors"
        rows = [("as shipped (fp16)", EMBEDDED_FOLDER, shipped.stat().st_size, 0.0)]
        for kind in args.types.split(","):
            folder, size = folder_of(kind, Path(work))
            rows.append((kind, folder, size, weight_error(folder)))
        for name, folder, size, error in rows:
            models = load_all(folder)
            preset = models.model.family.fast if args.fast else models.model.family.preset
            rates = reader.score(evaluate.drawn(models, scenes, preset), scenes)
            scores = [f"{100 * rates[k]:.1f}" for k in SHOWN]
            cells.append((name, f"{size / 1e3:.0f}", f"{error:.4f}", *scores))
            print(" ".join(cells[-1]), file=sys.stderr)
    title = f"scores of {args.prompts} unseen prompts by storage type of the diffusion model"
    print(common.report(title, cells, common.facts(args)))


if __name__ == "__main__":
    main()
