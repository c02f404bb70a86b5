"""`inkstone quantize`: reads a model file and writes GGUF or fp8, one tensor in memory at a time.

The file is written in place order with a journal (files/resumable.py), so a run that was killed
resumes where it stopped and gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import CallError
from ..files.paths import check_given, check_output
from ..files.resumable import PartialFile
from ..files.stamps import stamp_of
from ..loaders.formats.imatrix import Importance, read_imatrix
from ..loaders.formats.safetensors import ShardedFiles
from .calibrate import from_prompts
from .gguf_recipes import MIXES
from .piece_encoder import PieceEncoder, encoder_threads
from .quantize_layout import FP8, FilePlan, plan_file, suffix_of
from .quantize_request import BadWeights, QuantizeCall
from .weight_rows import Matrices

log = logging.getLogger(__name__)

VERSION = 1  # of the encoders' bytes; another number lets no old partial file resume
UNWEIGHTED = (FP8, "BF16", "F16", "Q8_0")  # types that round without a search

Progress = Callable[[int, int], None]  # (tensors written, of how many)


def quantize(call: QuantizeCall, progress: Progress) -> dict[str, object]:
    """Writes call.out; returns facts: file, bytes, tensors per type."""
    _check(call)
    with Matrices(call.source) as model:
        plan = plan_file(model, call.type)
        for line in [*plan.notes, *_lines_about_upcasts(model, plan)]:
            log.info("%s", line)
        importance = _importance(call, model, progress)
        _write(call, model, plan, importance, progress)
        return _facts(call, model, plan)


def _check(call: QuantizeCall) -> None:
    """Raises CallError for faults of the call itself, before anything is opened."""
    if call.type.upper() not in (*MIXES, FP8):
        known = ", ".join([*MIXES, FP8.lower()])
        raise CallError(f"--type {call.type}: expected one of {known}.")
    suffix = suffix_of(call.type)
    if call.out.suffix.lower() != suffix:
        raise CallError(
            f"{call.out}: {call.type} is written as {suffix}. Name it "
            f"{call.out.with_suffix(suffix).name}."
        )
    for path in (call.source, call.imatrix, call.prompts, call.text_encoder):
        if path is not None:
            check_given(path)
    if call.imatrix and call.prompts:
        raise CallError("--imatrix and --prompts have the same purpose: give one of them.")
    if call.imatrix and call.imatrix.is_dir() or call.prompts and call.prompts.is_dir():
        raise CallError("--imatrix and --prompts need a file, got a folder.")
    check_output(call.out)
    if not call.out.parent.is_dir():
        raise CallError(f"{call.out}: name a file in a folder that exists.")
    if _is_of(call.out, call.source):
        raise CallError(f"{call.out} is (a part of) the model that is read. Choose another name.")


def _is_of(out: Path, source: Path) -> bool:
    if not out.exists():
        return False
    inside = source.rglob("*") if source.is_dir() else source.parent.glob("*")
    shards = source.is_dir() or source.suffix == ".json" or "-of-" in source.name
    return out.samefile(source) or shards and any(out.samefile(p) for p in inside if p.is_file())


def _lines_about_upcasts(model: Matrices, plan: FilePlan) -> Iterator[str]:
    """A line where weights get more bits than they have: that adds size, not quality."""
    counts = Counter(
        (model.form(piece.name), piece.form)
        for piece in plan.pieces
        if piece.name in model.packed and piece.bits > model.bits(piece.name) * 1.01
    )
    for (form, kind), count in counts.items():
        yield (
            f"{count} weights are {form} in the source and become {kind}: the file gets larger "
            "and not better; use a source in bf16 if there is one"
        )


def _importance(call: QuantizeCall, model: Matrices, progress: Progress) -> Importance | None:
    if call.type.upper() in UNWEIGHTED:
        if call.imatrix or call.prompts:
            log.info(
                "%s rounds without a search: the importance of inputs changes nothing", call.type
            )
        return None
    if call.imatrix:
        return read_imatrix(call.imatrix)
    if call.prompts:
        return from_prompts(call, call.prompts, model, progress)
    return None


def _identity(
    call: QuantizeCall, model: Matrices, plan: FilePlan, importance: Importance | None
) -> dict[str, object]:
    """The facts that must be equal for a partial file to be resumed."""
    folder = model.path if model.path.is_dir() else model.path.parent
    shards = model.source.weight_map.values() if isinstance(model.source, ShardedFiles) else ()
    names = {model.path, *(folder / shard for shard in shards)}
    if model.path.is_dir():
        names |= {p for p in folder.iterdir() if p.is_file()}
    files = sorted((p.name, *_content(p)) for p in names if p.is_file())
    digest = hashlib.sha256()
    for name, values in sorted((importance.values if importance else {}).items()):
        digest.update(name.encode() + values.contiguous().numpy().tobytes())
    return {
        "version": VERSION,
        "source": str(model.path.resolve()),
        "files": files,
        "type": call.type.upper(),
        "head": hashlib.sha256(plan.head).hexdigest(),
        "importance": digest.hexdigest(),
    }


def _content(path: Path) -> tuple[int, int, int]:
    """Changes with the content of a file, and not with the number of its names."""
    return stamp_of(path.stat())[:3]


def _write(
    call: QuantizeCall,
    model: Matrices,
    plan: FilePlan,
    importance: Importance | None,
    progress: Progress,
) -> None:
    total = len(plan.pieces)
    identity = json.loads(json.dumps(_identity(call, model, plan, importance)))
    with (
        PartialFile(call.out, plan.size, identity, call.new) as file,
        encoder_threads() as threads,
        PieceEncoder(model, importance, threads) as encoder,
    ):
        if file.done:
            log.info("resuming after tensor %d of %d of an earlier run", file.done, total)
        else:
            file.write(0, plan.head)
        for number, piece in enumerate(plan.pieces[file.done :], file.done + 1):
            try:
                for at, data in encoder.data(piece):
                    file.write(at, data)
            except BadWeights:
                file.discard()
                raise
            file.checkpoint(number)
            progress(number, total)
        if encoder.missing:
            log.info(
                "%d matrices are not in the importance matrix, e.g. %s: encoded without it",
                len(encoder.missing),
                encoder.missing[0],
            )
        file.complete()


def _facts(call: QuantizeCall, model: Matrices, plan: FilePlan) -> dict[str, object]:
    counts = Counter(piece.form for piece in plan.pieces if piece.name)
    return {
        "file": str(call.out),
        "bytes": plan.size,
        "role": model.role,
        "type": call.type.upper(),
        "tensors": dict(sorted(counts.items())),
        "said": plan.notes,
    }
