"""An edit drawn twice through the nodes, the second time with another seed: seconds per stage.

What depends on neither seed nor step is kept by its content: text states, the vision tower's rows,
the latents of the pictures. So the second run spends nothing in the encoders, in any host: the
nodes are called again here, as a host without a cache of its own would.

python bench/again.py                         # the embedded model
python bench/again.py --folder MODEL_FOLDER   # a Qwen-Image-Edit folder
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from bench import common


def stages(args: argparse.Namespace) -> common.Cells:
    """Rows of the table: encode, denoise and decode of both runs."""
    import torch

    from inkstone.loaders.models.load import load_all
    from inkstone.nodes.decode import Decode
    from inkstone.nodes.edit import EncodeEdit
    from inkstone.nodes.sample import Denoise
    from inkstone.nodes.schedule import SCHEDULES, ScheduleSigmas

    models = load_all(args.folder)
    assert models.text_encoder is not None and models.vae is not None  # a folder has all three
    preset = models.model.preset(1)
    size = args.size or min(models.model.family.preset.size[0], 1024)
    picture = torch.rand(1, size, size, 3)
    rows: common.Cells = [("", "encode s", "denoise s", "decode s")]
    for seed, name in ((1, "first run"), (2, "again, new seed")):
        marks = [time.perf_counter()]
        positive, negative, latent = EncodeEdit.execute(
            models.text_encoder,
            models.model,
            models.vae,
            args.prompt,
            " ",
            "auto",
            {"picture_1": picture},
        ).result
        marks.append(time.perf_counter())
        steps = args.steps or preset.steps
        sigmas = ScheduleSigmas.execute(models.model, latent, steps, SCHEDULES[0]).result[0]
        drawn = Denoise.execute(
            models.model,
            positive,
            sigmas=sigmas,
            latent=latent,
            seed=seed,
            cfg=preset.cfg,
            negative=negative,
        ).result[0]
        marks.append(time.perf_counter())
        Decode.execute(models.vae, drawn)
        marks.append(time.perf_counter())
        rows.append((name, *(f"{b - a:.4f}" for a, b in zip(marks, marks[1:], strict=False))))
    return rows


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--folder", type=Path, help="a model folder; default: the embedded model")
    p.add_argument("--prompt", default="make the background red")
    p.add_argument("--size", type=int, help="side of the picture in pixels")
    p.add_argument("--steps", type=int)
    p.add_argument("--threads", type=int, default=None)
    p.add_argument("--json", action="store_true")
    args = p.parse_args()
    import torch

    torch.set_num_threads(args.threads or torch.get_num_threads())
    args.threads = torch.get_num_threads()
    rows = stages(args)
    facts = common.facts(args)
    print(
        json.dumps({**facts, "rows": rows})
        if args.json
        else common.report("an edit through the nodes, twice", rows, facts)
    )


if __name__ == "__main__":
    main()
