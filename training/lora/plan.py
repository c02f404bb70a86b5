"""The memory of a training, before it begins: the same figures decide where the weights are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ...errors import InkstoneError
from ...kernels.forward import ForwardSize
from ...loaders.memory.placement import NotEnoughMemory, PlannedWeights, place, what_helps
from ...loaders.models.diffusion_model import DiffusionModel
from ...pipeline.memory_plan import memory_now, with_growth
from .adapter import Adapter

# A process grows by this much for each byte that a block keeps (at 20B size, 14 to 38 blocks; the
# embedded model, 1 to 6): they live long among tensors that do not, and malloc is left with holes.
# Pages of their own (mallopt's threshold) leave none, but cost as much time as is saved.
_HOLES = 1.7
# So do the tensors of the block at work: as much again, up to this many bytes (embedded model, 1
# and 4 pictures of 1024x1024: 0.16 and 0.32 GB, none with pages of their own; at 20B size 0.32).
_MOST_HOLES = 300_000_000
_SMALLER = "take a smaller --resolution, --batch or --rank"
_GROWS = 170_000_000  # bytes of the program in its first backward pass: code that torch reads


@dataclass(frozen=True)
class TrainPlan:
    """Bytes of each part of a training, and the peak."""

    weights: int  # as placed
    placed: str
    activations: int  # of a step with the largest bucket
    kept: int  # of the last blocks all is kept that their gradients need
    table: int  # modulation of several steps
    adapter: int  # what is trained, its gradients, averages, and the optimizer's state
    program: int
    budget: int

    @property
    def working(self) -> int:
        """Bytes beside the weights."""
        return self.activations + self.table + self.adapter

    @property
    def peak(self) -> int:
        """The most bytes at once."""
        return self.program + self.weights + self.working

    def facts(self) -> dict[str, int | str]:
        """All figures, for JSON."""
        return {**asdict(self), "working": self.working, "peak": self.peak}

    def sentence(self) -> str:
        """One line for people."""
        kept = f" ({self.kept} blocks are not computed again)" if self.kept else ""
        parts = {
            f"activations{kept}": self.activations,
            "modulation of several steps": self.table,
            "LoRA, gradients and optimizer": self.adapter,
            "program": self.program,
        }
        rest = ", ".join(f"{name} {value / 1e9:.2f} GB" for name, value in parts.items())
        return (
            f"plan for a step: weights {self.weights / 1e9:.2f} GB ({self.placed}), {rest}: at "
            f"most {self.peak / 1e9:.2f} GB of {self.budget / 1e9:.2f} GB"
        )


@dataclass(frozen=True)
class Working:
    """What a step holds beside the weights."""

    target: int  # tokens of the largest example
    prefix: int  # its text and references
    batch: int = 1
    sigmas: int = 32  # rows of the modulation table
    moments: float = 2.0  # of the optimizer, in float32 numbers per parameter
    average: bool = False  # EMA

    @property
    def size(self) -> ForwardSize:
        """The size of a step's forward."""
        return ForwardSize(self.target, self.prefix, self.batch, self.batch)

    def kept(self, model: DiffusionModel, adapter: Adapter, spare: int) -> tuple[int, int]:
        """(blocks, bytes more) that keep all from half of what is to spare: the last ones. The
        first of them costs nothing."""
        network, first = model.network, adapter.first_block
        one, two = (network.training_bytes(self.size, model.dtype, first, n) for n in (1, 2))
        each = int((two - one) * (_HOLES if model.device.type == "cpu" else 1))
        count = max(0, network.config.layers - first)
        number = min(count, 1 + max(0, spare) // 2 // max(1, each))
        return number, max(0, number - 1) * each

    def parts(self, model: DiffusionModel, adapter: Adapter) -> tuple[int, int, int]:
        """(activations, table, adapter) in bytes."""
        network, trained = model.network, sum(p.numel() for p in adapter.parameters())
        copies = 2 + self.moments + self.average
        return (
            network.training_bytes(self.size, model.dtype, adapter.first_block),
            network.table_bytes(self.sigmas + model.apart, model.dtype),
            int(trained * 4 * copies),
        )


def train_plan(model: DiffusionModel, adapter: Adapter, working: Working) -> TrainPlan:
    """Plans a step from what is free now, or the model's budget. The adapter may be on the meta
    device. Raises InkstoneError where the weights do not fit even when streamed.
    """
    activations, table, own = working.parts(model, adapter)
    now, planned = memory_now(model.weights, model.budget), PlannedWeights.of(model.weights)
    grows = _GROWS if model.device.type == "cpu" else 0
    activations += min(activations, _MOST_HOLES) if model.device.type == "cpu" else 0
    beside = activations + table + own + grows
    free = now.room - beside
    try:
        placement = place(*planned.sizes, free)
    except NotEnoughMemory as lack:
        need = lack.need + beside
        enough = with_growth(now.fixed + need) if now.limited else None
        advice = what_helps(lack.missing, enough, now.limit, _SMALLER)
        raise InkstoneError(
            f"This training needs at least {need / 1e9:.2f} GB even when weights are streamed "
            f"block by block, beside {now.fixed / 1e9:.2f} GB of the program, and may use "
            f"{now.budget / 1e9:.2f} GB. {advice}"
        ) from None
    kept, more = 0, 0
    if not placement.streamed:
        kept, more = working.kept(model, adapter, free - placement.nbytes)
    return TrainPlan(
        weights=placement.nbytes,
        placed=placement.words(),
        activations=activations + more,
        kept=kept,
        table=table,
        adapter=own,
        program=now.runtime + grows,
        budget=now.budget,
    )


def largest(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Of (target, prefix) tokens of all examples those whose step takes most."""
    return max(sizes, key=sum, default=(0, 0))
