"""The weights that are trained: LoRA, LoKr or DoRA beside layers whose own weights stay.

Initial values are those of peft (LoRA, DoRA) and LyCORIS (LoKr): the change starts at exactly 0.
Master weights are float32; products run in the type of the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...errors import CallError, InkstoneError
from ...kernels.linear import Linear, product
from ...kernels.lora import attached
from ...kernels.lora_delta import Delta, Kron, LowRank
from ...kernels.modulation import Weights, plain
from . import targets

KINDS = ("lora", "lokr", "dora")


@dataclass(frozen=True)
class AdapterSettings:
    """What is trained."""

    kind: str = "lora"  # one of KINDS
    rank: int = 16
    alpha: float | None = None  # None = the rank: a factor of 1
    targets: tuple[str, ...] = ()  # see targets.choose
    ranks: Mapping[str, int] = field(default_factory=dict)
    factor: int = -1  # LoKr: rows and columns of its first matrix; -1 = as square as can be
    seed: int = 0

    @property
    def scale(self) -> float:
        """alpha / rank, the same for all layers: those with a rank of their own have an alpha of
        their own."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class TrainedLayer(nn.Module):
    """The change of one layer [N,K]: y + scale * up(down(x))."""

    kind = "LoRA"
    reads_output = False  # of the layer: the change depends on x alone

    def __init__(self, layer: Linear, rank: int, scale: float, random: torch.Generator) -> None:
        super().__init__()
        n, k = layer.out_features, layer.in_features
        if rank > min(n, k):
            raise CallError(
                f"rank {rank} is larger than a layer of {k} inputs and {n} outputs: expected at "
                f"most {min(n, k)}."
            )
        self.rank, self.alpha, self.scale = rank, scale * rank, scale
        self._make(n, k, random)

    def _make(self, n: int, k: int, random: torch.Generator) -> None:
        self.lora_A = nn.Parameter(_uniform((self.rank, k), random))
        self.lora_B = nn.Parameter(torch.zeros(n, self.rank))

    def delta(self) -> Delta:
        """The change of the weight."""
        return LowRank(self.lora_A, self.lora_B, self.scale)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(x [...,K], y [...,N]) -> y with the change: a branch, see kernels/lora.py."""
        delta = self.delta().to(x.device, x.dtype)
        if not isinstance(delta, LowRank) or x.dtype != y.dtype:
            return y + delta.apply(x).to(y.dtype)
        h = product(x, delta.down) * delta.scale
        flat = torch.addmm(y.reshape(-1, y.shape[-1]), h.reshape(-1, self.rank), delta.up.T)
        return flat.view(y.shape)


class TrainedKron(TrainedLayer):
    """A Kronecker product: w1 (x) w2, w2 of two factors where that is smaller."""

    kind = "LoKr"
    factor = -1

    def _make(self, n: int, k: int, random: torch.Generator) -> None:
        (n1, n2), (k1, k2) = (_factors(size, self.factor) for size in (n, k))
        self.lokr_w1 = nn.Parameter(_uniform((n1, k1), random))
        self.full = self.rank * 2 >= max(n2, k2)
        if self.full:  # of LyCORIS: without factors there is no rank to divide alpha by
            self.scale, self.alpha = 1.0, float(self.rank)
            self.lokr_w2 = nn.Parameter(torch.zeros(n2, k2))
        else:
            self.lokr_w2_a = nn.Parameter(_uniform((n2, self.rank), random))
            self.lokr_w2_b = nn.Parameter(torch.zeros(self.rank, k2))

    def delta(self) -> Delta:
        right = (self.lokr_w2,) if self.full else (self.lokr_w2_a, self.lokr_w2_b)
        return Kron((self.lokr_w1,), right, self.scale)


class TrainedDora(TrainedLayer):
    """DoRA: the rows of W + dW get a length of their own (reference: peft, whose gradient does not
    go through the norm)."""

    kind = "DoRA LoRA"
    reads_output = True

    def _make(self, n: int, k: int, random: torch.Generator) -> None:
        super()._make(n, k, random)
        self.magnitude = nn.Parameter(torch.ones(n))

    def __init__(self, layer: Linear, rank: int, scale: float, random: torch.Generator) -> None:
        super().__init__(layer, rank, scale, random)
        self.layer = (layer,)  # no module of this one: its weights are not trained

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        (layer,), delta = self.layer, self.delta()
        with torch.no_grad():
            weight = layer.dequantize()
            norm = torch.addmm(weight, self.lora_B, self.lora_A, alpha=self.scale).norm(dim=1)
            del weight
        gain = self.magnitude / norm
        plain = y if layer.bias is None else y - layer.bias.to(y.dtype)
        more = delta.to(x.device, x.dtype).apply(x)
        return y + plain * (gain - 1).to(y.dtype) + more * gain.to(y.dtype)


_CLASSES = {"lora": TrainedLayer, "lokr": TrainedKron, "dora": TrainedDora}


class Adapter(nn.Module):
    """All that is trained on one network; parameters are float32, on the network's device."""

    def __init__(self, settings: AdapterSettings, layers: Mapping[str, TrainedLayer]) -> None:
        super().__init__()
        self.settings = settings
        self.names = tuple(layers)
        self._layers = tuple(layers.values())
        self.layers = nn.ModuleList(self._layers)  # names of modules must not have dots

    @classmethod
    def create(cls, network: nn.Module, settings: AdapterSettings) -> Adapter:
        """New weights for a network of kernels/. Raises InkstoneError for targets that are none."""
        linear = targets.layers_of(network)
        chosen = targets.choose(network, settings.targets, settings.rank, settings.ranks)
        random = torch.Generator().manual_seed(settings.seed)
        layers = {}
        for name, rank in chosen.items():
            layers[name] = _CLASSES[settings.kind](linear[name], rank, settings.scale, random)
        return cls(settings, layers)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Of its layers."""
        return tuple(layer.rank for layer in self._layers)

    @property
    def first_block(self) -> int:
        """The first block that is trained: those before it need no gradients."""
        return targets.first_block(self.names)

    def by_name(self) -> dict[str, TrainedLayer]:
        """Layer name -> its change."""
        return dict(zip(self.names, self._layers))

    def start(self, weights: Weights) -> None:
        """Sets what starts from the layers' own weights: DoRA's lengths. weights: by our names."""
        with torch.no_grad():
            for name, change in self.by_name().items():
                if isinstance(change, TrainedDora):
                    change.magnitude.copy_(plain(weights, f"{name}.weight").norm(dim=1))

    @contextmanager
    def on(self, network: nn.Module, layers: Sequence[str] | None = None) -> Iterator[None]:
        """Within the block the network has these changes. layers: of these alone."""
        every = self.by_name()
        with attached(network, every if layers is None else {name: every[name] for name in layers}):
            yield

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by layer and part, e.g. `transformer_blocks.0.attn.to_q.lora_A`."""
        return {
            f"{name}.{part}": value.detach()
            for name, change in self.by_name().items()
            for part, value in change.named_parameters()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the parameters; raises InkstoneError where names or shapes are others."""
        own = self.tensors()
        wrong = sorted(own.keys() ^ tensors.keys())
        wrong += [n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape]
        if wrong:
            raise InkstoneError(
                f"{wrong[0]} is of another LoRA: expected {len(own)} tensors of rank "
                f"{self.settings.rank} ({self.settings.kind}), got {len(tensors)}."
            )
        for name, value in tensors.items():
            own[name].copy_(value)


def _uniform(shape: tuple[int, int], random: torch.Generator) -> Tensor:
    """Kaiming's uniform distribution with a = sqrt(5), as peft and LyCORIS start theirs."""
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=random)


def _factors(size: int, factor: int) -> tuple[int, int]:
    """(m, n) with m n = size and m <= n, as LyCORIS divides: m = `factor` where it divides, else
    the largest m up to it; -1: as square as can be."""
    most = math.isqrt(size) if factor < 1 else min(factor, size)
    low = max(m for m in range(1, most + 1) if size % m == 0)
    return min(low, size // low), max(low, size // low)
