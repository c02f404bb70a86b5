"""The cost of each storage format in quality: the scores of the embedded model per type.

Every type draws the same unseen prompts, which the reader judges; the table also has the file's
size and the relative error of its weights. Files are written by `inkstone quantize` (the diffusion
model; the rest stays as shipped) and loaded as any user's file, with two exceptions: rows of the
embedded model are shorter than the 256 weights of a K type's block, so a K file of it would hold
other types. There the weights alone go through the type, two rows a block, and every block of the
network gets what an inner block of the real one gets. DFloat11 has no encoder of ours but that of
the tests. TYPE+int8 computes with dtype int8, which rounds the products of the blocks: of all of
them here, though a real picture has them only from some tokens on.

python bench/formats.py --prompts 200
python bench/formats.py --prompts 400 --types as,as+int8,Q4_K_M,Q4_K_M+int8 --keep /tmp/formats
python bench/formats.py --prompts 400 --fast --keep /tmp/formats --types Q8_0,Q4_K_M  # goes on
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common, harness
from bench.format_files import write_packed
from inkstone.kernels import int8
from inkstone.kernels.linear import Linear
from inkstone.loaders.formats.safetensors import save_safetensors
from inkstone.loaders.models.load import EMBEDDED_FOLDER, load_all
from inkstone.loaders.models.weight_file import LoadOptions
from inkstone.pipeline import gguf_recipes
from inkstone.pipeline.quantize import quantize
from inkstone.pipeline.quantize_request import QuantizeCall
from inkstone.pipeline.weight_rows import Matrices
from inkstone.quant.gguf_dequantizer import dequantize
from inkstone.quant.gguf_quantizer import quantize_rows
from inkstone.quant.gguf_types import BlockType
from inkstone.training import evaluate, reader

SHIPPED = "as shipped (fp16)"
TYPES = (
    SHIPPED,
    "BF16",
    "DFloat11",
    "Q8_0",
    "Q6_K",
    "fp8_scaled",
    "Q5_1",
    "Q5_K_M",
    "Q5_0",
    "Q4_K_M",
    "Q4_1",
    "Q4_0",
    "Q3_K_M",
    "Q2_K",
)
INT8 = "+int8"
SHOWN = ("ground", "kind", "colour", "place", "size", "words", "letters", "stray", "all")
WEIGHTS = "diffusion_pytorch_model.safetensors"
K_BLOCK = 256


def folder_of(kind: str, work: Path) -> tuple[Path, int]:
    """A model folder with the diffusion model in this type, and the bytes of its file."""
    if kind == SHIPPED:
        return EMBEDDED_FOLDER, (EMBEDDED_FOLDER / "transformer" / WEIGHTS).stat().st_size
    folder = work / kind
    ignore = shutil.ignore_patterns("transformer", "checkpoints")
    shutil.copytree(EMBEDDED_FOLDER, folder, ignore=ignore)
    inner = folder / "transformer"
    inner.mkdir()
    shutil.copy(EMBEDDED_FOLDER / "transformer" / "config.json", inner)
    if "_K" in kind:
        return folder, pressed(kind, inner / WEIGHTS)
    if kind == "DFloat11":
        write_packed(inner, kind)
    else:
        out = inner / ("model.safetensors" if kind == "fp8_scaled" else "model.gguf")
        quantize(QuantizeCall(EMBEDDED_FOLDER, out, kind), lambda *_: None)
    return folder, sum(p.stat().st_size for p in inner.iterdir() if p.suffix != ".json")


def pressed(kind: str, out: Path) -> int:
    """Writes float32 weights that went through a K type; returns the bytes that they had there."""
    mix = replace(gguf_recipes.MIXES[kind], edge="", first=(0, ""))
    with Matrices(EMBEDDED_FOLDER) as model:
        types, replaced = gguf_recipes.types_of(
            {n: _folded(s) for n, s in model.shapes.items()}, mix
        )
        assert not replaced, replaced
        weights = {name: _through(model.whole(name), types[name]) for name in model.shapes}
        save_safetensors(out, weights, dict(model.file.source.metadata))
    return sum(-(-w.numel() // types[n].block) * types[n].bytes for n, w in weights.items())


def _folded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Rows shorter than a block are joined to one."""
    if len(shape) != 2 or shape[1] % K_BLOCK == 0:
        return shape
    return shape[0] * shape[1] // K_BLOCK, K_BLOCK


def _through(weight: Tensor, kind: BlockType) -> Tensor:
    """A weight as it comes back from a type."""
    if kind.dtype is not None:
        return weight.to(kind.dtype).float()
    packed = quantize_rows(weight.view(_folded(weight.shape)), kind)
    return dequantize(packed, kind).view(weight.shape)


def weight_error(folder: Path) -> float:
    """Relative error of all large weights of the network together."""
    true, got = load_all(EMBEDDED_FOLDER).model.network, load_all(folder).model.network
    off = norm = 0.0
    for (_, a), (_, b) in zip(_linears(true), _linears(got), strict=True):
        off += (b.dequantize() - a.dequantize()).square().sum().item()
        norm += a.dequantize().square().sum().item()
    return (off / norm) ** 0.5


def _linears(network: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    return [(n, m) for n, m in network.named_modules() if isinstance(m, Linear)]


def measured(kind: str, prompts: int, fast: bool, keep: Path) -> dict:
    """Size, error, verdicts and a digest of the pictures of one type, from `keep` where it is."""
    path = (
        keep / f"{kind.split()[0]}{INT8 * (INT8 in kind)}-{prompts}{'-fast' if fast else ''}.json"
    )
    if path.exists():
        return json.loads(path.read_text("utf-8"))
    scenes = evaluate.test_scenes(prompts)
    with tempfile.TemporaryDirectory() as work:
        folder, size = folder_of(kind.removesuffix(INT8), Path(work))
        error, models = weight_error(folder), load_all(folder, LoadOptions(int8=INT8 in kind))
        if models.model.network.int8 != (INT8 in kind):
            raise SystemExit("This machine does not compute in int8, see above.")
        family = models.model.family
        pictures = evaluate.draw_scenes(models, scenes, family.fast if fast else family.preset)
    digest = hashlib.sha256(b"".join(p.tobytes() for p in pictures)).hexdigest()
    verdicts = [reader.read(p, s) for p, s in zip(pictures, scenes)]
    result = {"kB": size / 1e3, "error": error, "digest": digest, "verdicts": verdicts}
    path.write_text(json.dumps(result, default=float), "utf-8")
    return result


def row(kind: str, result: dict, shipped: dict) -> tuple[str, ...]:
    """A type's line; lost and won: pictures right only as shipped, only in this type."""
    verdicts = result["verdicts"]
    rates = {}
    for key in SHOWN:
        values = [float(v[key]) for v in verdicts if v[key] is not None]
        rates[key] = 100 * sum(values) / max(1, len(values))
    pairs = [(a["all"], b["all"]) for a, b in zip(shipped["verdicts"], verdicts, strict=True)]
    lost, won = sum(a > b for a, b in pairs), sum(b > a for a, b in pairs)
    scores = [f"{rates[k]:.1f}" for k in SHOWN]
    return kind, f"{result['kB']:.0f}", f"{result['error']:.4f}", *scores, str(lost), str(won)


def main() -> None:
    p = harness.parser(__doc__)
    p.add_argument("--prompts", type=int, default=200)
    p.add_argument("--types", default=",".join(TYPES))
    p.add_argument("--fast", action="store_true", help="8 steps without CFG, not 20 with CFG 2")
    p.add_argument("--keep", type=Path, help="keeps what is measured, and goes on from there")
    args = p.parse_args()
    logging.disable(logging.INFO)
    torch.set_num_threads(args.threads)
    known = {kind.split()[0].lower(): kind for kind in TYPES}
    known |= {f"{name}{INT8}": f"{kind}{INT8}" for name, kind in known.items()}
    kinds = [known[kind.split()[0].lower()] for kind in args.types.split(",")]
    int8.TOKENS = 1
    cells: common.Cells = [("type", "file kB", "weights", *SHOWN, "lost", "won")]
    alike: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as work:
        keep = args.keep or Path(work)
        keep.mkdir(parents=True, exist_ok=True)
        shipped = measured(SHIPPED, args.prompts, args.fast, keep)
        for kind in kinds:
            result = measured(kind, args.prompts, args.fast, keep)
            cells.append(row(kind, result, shipped))
            alike.setdefault(result["digest"], []).append(kind)
            print(" ".join(cells[-1]), file=sys.stderr)
    same = [f"the same pictures, bit for bit: {', '.join(k)}" for k in alike.values() if len(k) > 1]
    title = f"scores of {args.prompts} unseen prompts by storage type of the diffusion model"
    print("\n".join([common.report(title, cells, common.facts(args)), *same]))


if __name__ == "__main__":
    main()
