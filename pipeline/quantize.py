"""`inkstone quantize`: a model file in, a GGUF or fp8 file out, one tensor in memory at a time.

The file is written in place order with a journal (files/resumable.py), so a run that was killed
goes on where it stopped and gives the same bytes. Matrices are encoded in chunks of rows by as many
threads as torch has, each with one thread of torch's own: chunks are small, and torch's threads
would wait for each other after every operation.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CallError
from ..kernels.interrupt import beat, waited
from .quantize_request import BadWeights, QuantizeCall

if TYPE_CHECKING:
    from torch import Tensor

    from ..loaders.formats.imatrix import Importance
    from .quantize_layout import FilePlan, Piece
    from .weight_rows import Matrices, Rows

log = logging.getLogger(__name__)

CHUNK = 1 << 20  # weights that a thread encodes at a time
LARGEST = 65504.0  # of f16, in which scales are stored
VERSION = 1  # of what encoders give; another number lets no old partial file go on

Progress = Callable[[int, int], None]
Encode = Callable[["Tensor"], "Tensor"]  # float rows -> bytes


def quantize(call: QuantizeCall, progress: Progress) -> dict:
    """Writes call.out; returns facts: file, bytes, tensors per type."""
    from .quantize_layout import plan_file
    from .weight_rows import Matrices

    _check(call)
    with Matrices(call.source) as model:
        plan = plan_file(model, call.type)
        for line in [*plan.notes, *_raised(model, plan)]:
            log.info("%s", line)
        importance = _importance(call, model, progress)
        _write(call, model, plan, importance, progress)
        return _facts(call, model, plan)


def _check(call: QuantizeCall) -> None:
    """What is wrong with the call itself, before anything is opened."""
    from .gguf_recipes import MIXES
    from .quantize_layout import FP8, suffix_of

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
        if path is not None and not path.exists():
            raise CallError(f"{path}: no such file or folder. Check the path.")
    if call.imatrix and call.prompts:
        raise CallError("--imatrix and --prompts say the same thing twice: give one of them.")
    if call.imatrix and call.imatrix.is_dir() or call.prompts and call.prompts.is_dir():
        raise CallError("--imatrix and --prompts need a file, not a folder.")
    if call.out.is_dir() or not call.out.parent.is_dir():
        raise CallError(f"{call.out}: name a file in a folder that exists.")
    if _is_of(call.out, call.source):
        raise CallError(f"{call.out} is (a part of) the model that is read. Choose another name.")


def _is_of(out: Path, source: Path) -> bool:
    if not out.exists():
        return False
    inside = source.rglob("*") if source.is_dir() else source.parent.glob("*")
    shards = source.is_dir() or source.suffix == ".json" or "-of-" in source.name
    return out.samefile(source) or shards and any(out.samefile(p) for p in inside if p.is_file())


def _raised(model: Matrices, plan: FilePlan) -> Iterator[str]:
    """A line where weights get more bits than they have: that adds size, not quality."""
    found: dict[tuple[str, str], int] = {}
    for piece in plan.pieces:
        if piece.name in model.packed and piece.bits > model.bits(piece.name) * 1.01:
            key = model.form(piece.name), piece.form
            found[key] = found.get(key, 0) + 1
    for (form, kind), count in found.items():
        yield (
            f"{count} weights are {form} in the source and become {kind}: a larger file, what "
            "was lost does not come back; use a source in bf16 if there is one"
        )


def _importance(call: QuantizeCall, model: Matrices, progress: Progress) -> Importance | None:
    from ..loaders.formats.imatrix import read_imatrix

    if call.type.upper() in ("FP8_SCALED", "BF16", "F16", "Q8_0"):
        if call.imatrix or call.prompts:
            log.info(
                "%s rounds without a search: the importance of inputs changes nothing", call.type
            )
        return None
    if call.imatrix:
        return read_imatrix(call.imatrix)
    if call.prompts:
        from .calibrate import from_prompts

        return from_prompts(call, model, progress)
    return None


def _identity(
    call: QuantizeCall, model: Matrices, plan: FilePlan, importance: Importance | None
) -> dict[str, object]:
    """What must be equal for a partial file to be gone on with."""
    folder = model.path if model.path.is_dir() else model.path.parent
    shards = set(getattr(model.source, "weight_map", {}).values())
    names = {model.path, *(folder / shard for shard in shards)}
    if model.path.is_dir():
        names |= {p for p in folder.iterdir() if p.is_file()}
    files = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in names if p.is_file())
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


def _write(
    call: QuantizeCall,
    model: Matrices,
    plan: FilePlan,
    importance: Importance | None,
    progress: Progress,
) -> None:
    from ..files.resumable import PartialFile

    total = len(plan.pieces)
    identity = json.loads(json.dumps(_identity(call, model, plan, importance)))
    with PartialFile(call.out, plan.size, identity) as file, _threads() as pool:
        if file.done:
            log.info("going on behind tensor %d of %d of an earlier run", file.done, total)
        else:
            file.write(0, plan.head)
        missing: list[str] = []
        for number, piece in enumerate(plan.pieces[file.done :], file.done + 1):
            try:
                for at, data in _encoded(model, piece, importance, pool, missing):
                    file.write(at, data)
            except BadWeights:
                file.discard()
                raise
            file.checkpoint(number)
            progress(number, total)
        if missing:
            log.info(
                "%d matrices are not in the importance matrix, e.g. %s: encoded without it",
                len(missing),
                missing[0],
            )
        file.complete()


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor | None]:
    """A pool of torch's number of threads, in each of which torch itself uses one."""
    import torch

    count = torch.get_num_threads()
    if count == 1:
        yield None
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count, "inkstone-quantize") as pool:
            yield pool
    finally:
        torch.set_num_threads(count)


def _encoded(
    model: Matrices,
    piece: Piece,
    importance: Importance | None,
    pool: ThreadPoolExecutor | None,
    missing: list[str],
) -> Iterator[tuple[int, memoryview]]:
    """(place, bytes) of all that belongs to one piece."""
    import torch

    if not piece.name or not math.prod(piece.shape):
        return
    if len(piece.shape) != 2:
        dtype = piece.dtype or piece.kind.dtype
        values = _finite(model, piece.name, model.whole(piece.name).view(1, -1), 0, math.inf)
        yield piece.begin, _bytes(values.to(dtype))
        return
    same = _unchanged(model, piece, importance)
    if same is not None:
        yield piece.begin, _bytes(same)
        return
    rows = model.rows(piece.name)
    if piece.kind is None and piece.dtype is None:
        yield from _fp8(model, piece, rows, pool)
        return
    dtype = piece.dtype or piece.kind.dtype
    encode: Encode = lambda x: x.to(dtype)  # noqa: E731
    if dtype is None:
        encode = _block_encoder(piece, importance, missing)
    limit = LARGEST if dtype is None else torch.finfo(dtype).max
    at = piece.begin
    for data in _chunks(model, piece, rows, pool, encode, limit):
        view = _bytes(data)
        yield at, view
        at += len(view)


def _unchanged(model: Matrices, piece: Piece, importance: Importance | None) -> Tensor | None:
    """The bytes of the source where they are of the very type that is asked for."""
    if importance is not None or piece.kind is None or piece.name not in model.packed:
        return None
    theirs = model.source.entries[model.names[piece.name]]
    same = getattr(theirs, "kind", None) is piece.kind and theirs.factor == 1
    return model.source.raw(model.names[piece.name]) if same else None


def _block_encoder(piece: Piece, importance: Importance | None, missing: list[str]) -> Encode:
    from ..quant.gguf_quantizer import quantize_rows

    weight = None
    if importance is not None:
        weight = importance.of((piece.saved_as, piece.name), piece.shape[1])
        if weight is None:
            missing.append(piece.saved_as)
    return lambda x: quantize_rows(x, piece.kind, weight)


def _fp8(
    model: Matrices, piece: Piece, rows: Rows, pool: ThreadPoolExecutor | None
) -> Iterator[tuple[int, memoryview]]:
    """Two passes: the largest weight, then the codes."""
    import torch

    from ..quant.fp8 import fp8_scale, quantize_fp8

    peaks = _chunks(model, piece, rows, pool, lambda x: x.abs().amax(), math.inf)
    scale = fp8_scale(max(float(peak) for peak in peaks))
    yield piece.scale_at, _bytes(torch.tensor(scale, dtype=torch.float32))
    at = piece.begin
    for data in _chunks(model, piece, rows, pool, lambda x: quantize_fp8(x, scale), math.inf):
        view = _bytes(data)
        yield at, view
        at += len(view)


def _chunks(
    model: Matrices,
    piece: Piece,
    rows: Rows,
    pool: ThreadPoolExecutor | None,
    encode: Encode,
    limit: float,
) -> Iterator[Tensor]:
    """Results for chunks of rows, in order; at most two chunks per thread are under way."""
    count, columns = piece.shape
    step = max(32, CHUNK // columns // 32 * 32)

    def work(start: int) -> Tensor:
        chunk = rows(start, min(start + step, count))
        return encode(_finite(model, piece.name, chunk, start, limit))

    starts = list(range(0, count, step))
    if pool is None:
        for start in starts:
            beat()
            yield work(start)
        return
    ahead = [pool.submit(work, start) for start in starts[: 2 * pool._max_workers]]
    for number in range(len(starts)):
        beat()
        result = waited(ahead.pop(0))
        following = number + 2 * pool._max_workers
        if following < len(starts):
            ahead.append(pool.submit(work, starts[following]))
        yield result


def _finite(model: Matrices, name: str, rows: Tensor, start: int, limit: float) -> Tensor:
    """The rows, or an error that names the first one with a number that cannot be stored."""
    peak = float(rows.abs().amax())
    if peak <= limit and math.isfinite(peak):
        return rows
    good = (rows.abs() <= limit) & rows.isfinite()
    row, column = (int(n) for n in (~good).nonzero()[0])
    raise BadWeights(
        f"{model.source.path}: tensor {name} holds {float(rows[row, column])} in row "
        f"{start + row}, column {column}: "
        + (
            "no finite number. The file is damaged: download it again."
            if not math.isfinite(float(rows[row, column]))
            else f"more than {limit:g}, which this type cannot store. Use bf16 for this model."
        )
    )


def _bytes(tensor: Tensor) -> memoryview:
    import torch

    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def _facts(call: QuantizeCall, model: Matrices, plan: FilePlan) -> dict:
    counts: dict[str, int] = {}
    for piece in plan.pieces:
        counts[piece.form] = counts.get(piece.form, 0) + bool(piece.name)
    return {
        "file": str(call.out),
        "bytes": plan.size,
        "role": model.role,
        "type": call.type.upper(),
        "tensors": dict(sorted((k, n) for k, n in counts.items() if n)),
        "said": plan.notes,
    }
