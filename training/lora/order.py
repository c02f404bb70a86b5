"""Which pictures are in which batch: a function of the seed and the batch's number, not a state.

In an epoch every picture comes once. A batch holds pictures of one size; the batches of all sizes
are mixed, so that a size comes as often as its number of batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..checkpoint import step_rng


class Order:
    """Batches without end. The last one of a size may be smaller."""

    def __init__(self, buckets: Iterable[Sequence[int]], batch: int, seed: int) -> None:
        """buckets: the indices of the pictures of each size."""
        self._buckets = [list(bucket) for bucket in buckets if len(bucket)]
        self._batch, self._seed = batch, seed
        self.per_epoch = sum(-(-len(bucket) // batch) for bucket in self._buckets)
        self._epoch, self._batches = -1, list[list[int]]()

    def batch(self, number: int) -> list[int]:
        """The indices of one batch, counted from 0."""
        epoch, place = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._shuffled(epoch)
        return self._batches[place]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        rng = step_rng(self._seed, "lora-order", epoch)
        batches: list[list[int]] = []
        for bucket in self._buckets:
            mixed = [bucket[i] for i in rng.permutation(len(bucket))]
            batches += [mixed[k : k + self._batch] for k in range(0, len(mixed), self._batch)]
        return [batches[i] for i in rng.permutation(len(batches))]
