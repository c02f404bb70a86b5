"""Inpaints random sizes with random boxes by every face, and counts parts that moved and calls that
were refused. Seeded; how it is measured: tests/support/places.py.

python bench/inpaint_places.py                                    # 600 on the embedded model
python bench/inpaint_places.py --count 0 --large 60 --faces API   # 1.8-1.95 MP, Qwen-Image's layout
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import scripts.package  # noqa: F401  makes this tree importable as `inkstone`
from inkstone.tests.support import places


def parsed() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description="Inpaints that have to stay in their place")
    parser.add_argument("--count", type=int, default=600, help="pictures for the embedded model")
    parser.add_argument("--large", type=int, default=0, help="pictures of 1.80-1.95 MP")
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--faces", nargs="+", default=list(places.FACES), choices=places.FACES)
    return parser.parse_args()


def main() -> int:
    """Prints a line for each face; status 1 where a part moved, or where a call was refused."""
    args, faults = parsed(), 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        model = places.qwen_layout(Path(folder) / "models/diffusers/qwen") if args.large else None
        sets = {
            "embedded": (places.small(args.count, args.seed), None),
            "Qwen-Image layout, 1.80-1.95 MP": (places.large(args.large, args.seed), model),
        }
        for name, (cases, own) in sets.items():
            for face, counts in places.tally(cases, args.faces, own, print).items():
                if counts.done:
                    print(
                        f"{name}, {face}: {counts.done} inpaints, {counts.moved} moved (largest "
                        f"drift {counts.worst:.1f} px), {counts.refused} refused, {counts.unlike} "
                        f"unlike {args.faces[0]}"
                    )
                faults += counts.moved + counts.refused + counts.unlike
        os.chdir("/")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
