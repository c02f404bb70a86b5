"""One step of training: losses of some examples, and their gradients.

The network stays as it is loaded, packed and streamed. Its modulation depends on the noise level
only, so the table of many steps is computed at once (`look_ahead`); the weights that make it, a
third of the model, are never in memory together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ...kernels.block_streaming import in_step
from ...kernels.forward import ForwardHooks, Inputs
from ...kernels.frozen import backward_pass
from ...kernels.modulation import Modulation
from ...kernels.recompute import Recompute
from ...kernels.references import NO_REFERENCES, ReferenceContext, References
from ...kernels.shared_modulation import SharedModulation
from ...loaders.models.diffusion_model import DiffusionModel
from ..dataset.example import Example
from .adapter import Adapter
from .objective import Draws, Objective, layers_of, loss_of, noise_of, text_of


class Trainer:
    """A model with the adapter that is trained on it. The model's weights must have been placed
    (`DiffusionModel.ready`), and what it draws in between must not change where they are.
    """

    def __init__(
        self, model: DiffusionModel, adapter: Adapter, objective: Objective, kept: int = 0
    ) -> None:
        """kept: of so many last blocks all is kept that their gradients need, see `TrainPlan`."""
        self.model, self.adapter, self.objective = model, adapter, objective
        self.kept = kept
        self._table: Modulation | SharedModulation | None = None
        self._row: dict[float, int] = {}  # sigma -> its row of the table

    def look_ahead(self, draws: Iterable[Draws]) -> None:
        """Computes the modulation of these draws. A table's numbers depend in their last bits on
        the number of its rows: to resume bit for bit, look ahead at the same draws."""
        sigmas = list(dict.fromkeys(draw.sigma for draw in draws))
        self._row = {sigma: row for row, sigma in enumerate(sigmas)}
        self._table = None  # freed before the next one is made
        with torch.no_grad():
            self._table = self.model.new_table(torch.tensor(sigmas))

    def backward(
        self, examples: Sequence[Example], draws: Sequence[Draws], share: float = 1.0
    ) -> list[float]:
        """The loss of each example; the gradients of share * (the sum of losses) are added to the
        adapter's parameters. All go through each layer together.
        """
        # blocks are computed again in the backward pass, and need the changes there too
        layers = layers_of(self.objective, self.adapter.names, draws[0])
        with torch.enable_grad(), self.adapter.on(self.model.network, layers):
            losses = self._losses(examples, draws)
            with backward_pass():
                (torch.stack(losses).sum() * share).backward()
        return [loss.item() for loss in losses]

    def losses(self, examples: Sequence[Example], draws: Sequence[Draws]) -> list[float]:
        """The loss of each example, without gradients: of examples that are not trained on."""
        with torch.no_grad(), self.adapter.on(self.model.network):
            return [loss.item() for loss in self._losses(examples, draws)]

    def _losses(self, examples: Sequence[Example], draws: Sequence[Draws]) -> list[Tensor]:
        network = self.model.network
        keep = network.config.layers - self.kept
        recompute = Recompute(network, self.adapter.first_block, keep)
        hooks = ForwardHooks(recompute=recompute if torch.is_grad_enabled() else None)
        pairs = list(zip(examples, draws, strict=True))
        noises = [noise_of(*pair) for pair in pairs]
        inputs = [self._inputs(*pair, noise) for pair, noise in zip(pairs, noises)]
        velocities = in_step(network, [network.walk(one, hooks) for one in inputs])
        return [
            loss_of(self.objective, velocity[0].float(), noise, example, draw.sigma)
            for (example, draw), noise, velocity in zip(pairs, noises, velocities)
        ]

    def _inputs(self, example: Example, draw: Draws, noise: Tensor) -> Inputs:
        """Inputs of a forward, a batch of one row."""
        model = self.model
        assert self._table is not None, "look_ahead has these draws"
        text = text_of(self.objective, example, draw)
        img = (1 - draw.sigma) * example.latents + draw.sigma * noise
        tokens = example.references
        references = NO_REFERENCES
        if tokens is not None:
            kept = References(tokens[None].to(model.device, model.dtype))
            references = ReferenceContext(kept, example.drawn if model.layered else 0)
        return Inputs(
            img=img[None].to(model.device, model.dtype),
            txt=text[None].to(model.device, model.dtype),
            modulation=self._table.step(self._row[draw.sigma]),
            grids=example.grids,
            references=references,
            slots=example.dropped_slots if draw.dropped else example.slots,
        )
