"""The Python API's `inkstone.score_model`: `inkstone score` as a function. (`inkstone.score` is the
package.)
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CallError
from ..draw.api import Option, option_values
from .call import ScoreCall
from .run import score

if TYPE_CHECKING:
    from ...score.results import Result


def score_model(
    output: str | os.PathLike[str],
    sets: str | Sequence[str] = (),
    *,
    name: str = "",
    limit: int | None = None,
    seed: int = 0,
    font: str | os.PathLike[str] | None = None,
    **options: Option,
) -> Result:
    """Draws sets of prompts and counts what came out, as `inkstone score` does: writes pictures,
    score.json and score.html into `output`, and continues there after a stop.

    sets: names and files, none = the usual ones; options: those of `draw` for every picture.
    Raises errors.CallError where the call is wrong.
    """
    if limit is not None and limit < 1:
        raise CallError(f"limit is {limit}: expected at least 1, or None for all prompts.")
    fixed = sorted({"batch", "prompt", "image", "mask"} & set(options))
    if fixed:
        raise CallError(f"{fixed[0]} is not for scores: a prompt of a set brings its own picture.")
    with tempfile.TemporaryDirectory(prefix="inkstone-") as folder:
        call = ScoreCall(
            sets=[sets] if isinstance(sets, str) else [os.fspath(one) for one in sets],
            output=Path(output),
            name=name,
            limit=limit,
            seed=seed,
            font=None if font is None else Path(font),
            options=option_values(options, Path(folder)),
        )
        return score(call)
