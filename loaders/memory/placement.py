"""The decision where weights are: resident, streamed block by block, or only in the file.

Pure functions of numbers. `Residency` carries the decision out, and a memory plan asks for it
without carrying it out (`PlannedMemory`), so the words of a plan are those of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from ...errors import InkstoneError

_STREAMED_MORE = 10  # one of so many blocks may be streamed more to unpack all of them once
Sizes: TypeAlias = "tuple[int, Sequence[int]]"  # bytes outside of blocks, bytes of each block


@dataclass(frozen=True)
class Placement:
    """Blocks 0 .. resident - 1 stay in memory, the others are streamed; `nbytes` is the peak."""

    resident: int
    streamed: int
    nbytes: int

    def words(self) -> str:
        """For people. Every line that says where weights are takes its words from here."""
        if not self.streamed:
            return "resident"
        resident = f"{self.resident} blocks" if self.resident != 1 else "1 block"
        return f"{resident} resident, {self.streamed} streamed from the file"


_ADVICE = (
    "Allow more with --memory, close other programs, draw a smaller picture, or use a file of a "
    "smaller type."
)


class NotEnoughMemory(InkstoneError):
    """Weights do not fit even when streamed: `missing` bytes are lacking."""

    def __init__(
        self, need: int, room: int, name: str = "model", working: int = 0, advice: str = _ADVICE
    ) -> None:
        """working: bytes of activations that the room is left by; advice: see `what_helps`."""
        self.need, self.room, self.missing = need, room, need - room
        beside = f" beside {working / 1e9:.2f} GB of activations" if working else ""
        super().__init__(
            f"The {name} needs {need / 1e9:.2f} GB even when streamed block by block{beside}, and "
            f"there is room for {max(room, 0) / 1e9:.2f} GB. {advice}"
        )


_SMALLER = "draw a smaller picture or fewer at a time"


def what_helps(missing: int, whole: int | None, limit: str, smaller: str = _SMALLER) -> str:
    """The advice where memory is short. missing: bytes; whole: the least --memory that is enough,
    None where that is not in the way; limit: another limit that is, see `limit_in_the_way`;
    smaller: what takes less.
    """
    first = (
        f"{_rounded_up(missing)} GB more must be free: "
        + (f"raise {limit}," if limit else "close other programs,")
        if whole is None
        else f"Set --memory to {_rounded_up(whole)}GB or more,"
    )
    return f"{first} {smaller}, or use files of a smaller type."


def _rounded_up(size: int) -> str:
    """Bytes as a number of GB that is enough."""
    return f"{-(-size // 10_000_000) / 100:.2f}"


def place(rest: int, groups: Sequence[int], room: int | None) -> Placement:
    """rest: bytes outside of blocks; groups: bytes of each block; room None = no limit.

    Streaming needs two blocks at a time, the current and the next. Raises NotEnoughMemory when even
    that does not fit.
    """
    total = rest + sum(groups)
    if room is None or total <= room:
        return Placement(len(groups), 0, total)
    for resident in range(len(groups) - 2, -1, -1):
        need = _streamed(rest, groups, resident)
        if need <= room:
            return Placement(resident, len(groups) - resident, need)
    raise NotEnoughMemory(least(rest, groups), room)


def least(rest: int, groups: Sequence[int]) -> int:
    """The least room that `place` takes."""
    streamed = (_streamed(rest, groups, resident) for resident in range(len(groups) - 1))
    return min((rest + sum(groups), *streamed))


def _streamed(rest: int, groups: Sequence[int], resident: int) -> int:
    """Bytes with this many blocks resident and two of the others."""
    return rest + sum(groups[:resident]) + 2 * max(groups[resident:])


class Occupant:
    """Weights that are or will be in the memory of a device."""

    name = "model"  # for people
    placement: Placement | None = None  # None = nothing is in memory
    used = 0  # when it worked last: larger is later
    kept: int = 0  # bytes of what goes with the weights, and is freed when they are

    @property
    def sizes(self) -> Sizes:
        """(bytes outside of blocks, bytes of each block)."""
        raise NotImplementedError

    @property
    def loaded(self) -> int:
        """Blocks 0 .. this - 1 are in memory to stay."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes when all of it is in memory."""
        rest, groups = self.sizes
        return rest + sum(groups)

    @property
    def least(self) -> int:
        """The least bytes that a run needs, as much of it streamed as can be."""
        return least(*self.sizes)

    @property
    def reserved(self) -> int:
        """The peak bytes of its placement, with the blocks that are not loaded yet, and of what
        goes with it.
        """
        return (self.placement.nbytes if self.placement else 0) + self.kept

    @property
    def in_memory(self) -> int:
        """The peak bytes until more blocks are loaded."""
        if self.placement is None:
            return self.kept
        return self.reserved - sum(self.sizes[1][self.loaded : self.placement.resident])


Weights = TypeVar("Weights", bound=Occupant)


def decide(
    mine: Weights,
    others: Sequence[Weights],
    room: int,
    keep: Sequence[Weights] = (),
    after: Sequence[Weights] = (),
) -> tuple[Placement, list[Weights]]:
    """(placement of `mine`, the others that are unloaded for it, in order).

    others: those in memory; room: bytes for the weights of all, and for what others keep with
    theirs (what `mine` keeps counts as activations). Idle models are unloaded if that
    makes room, those that were used last come last, those in `keep` never; room is left for those
    in `after`, which settle next.
    """
    room -= sum(one.least for one in after if not one.reserved)
    held = sum(one.reserved for one in others)
    if mine.placement and not mine.placement.streamed and mine.placement.nbytes + held <= room:
        return mine.placement, []
    idle = sorted((one for one in others if one not in keep), key=lambda o: (o in after, o.used))
    unloaded: list[Weights] = []
    while idle and mine.nbytes + held > room:
        unloaded.append(idle.pop(0))
        held -= unloaded[-1].reserved
        room -= unloaded[-1].least if unloaded[-1] in after else 0
    return place(*mine.sizes, room - held), unloaded


def turns(
    main: Weights, controls: Sequence[Weights]
) -> list[tuple[Weights, Sequence[Weights], Sequence[Weights]]]:
    """(who settles, keep, after) for a network and the controls that run in the same steps.

    Controls are small: they settle first, and the network is streamed where it does not fit.
    """
    order = [*controls, main]
    return [(one, order[:n], order[n + 1 :]) for n, one in enumerate(order)]


class PlannedWeights(Occupant):
    """Weights in a plan."""

    def __init__(
        self, name: str, sizes: Sizes, placement: Placement | None = None, loaded: int = 0
    ) -> None:
        self.name, self._sizes, self._loaded, self.placement = name, sizes, loaded, placement

    @classmethod
    def of(cls, weights: Occupant) -> PlannedWeights:
        """These weights as they are now."""
        planned = cls(weights.name, weights.sizes, weights.placement, weights.loaded)
        planned.used, planned.kept = weights.used, weights.kept
        return planned

    @property
    def sizes(self) -> Sizes:
        return self._sizes

    @property
    def loaded(self) -> int:
        return self._loaded

    def arrange(self, placement: Placement | None, now: bool = False) -> None:
        """Changes the placement; `now`: all resident blocks are loaded."""
        resident = 0 if placement is None else placement.resident
        self._loaded = resident if now else min(self._loaded, resident)
        self.placement = placement
        self.kept = self.kept if placement else 0


@dataclass(frozen=True)
class Unloading:
    """`who` is unloaded before `before` is loaded; None: when its work is done."""

    who: PlannedWeights
    before: PlannedWeights | None
    worked: bool  # False: it was in memory before the plan began, and has not worked yet


@dataclass
class PlannedMemory:
    """What happens to the memory of a device while models work one after the other."""

    room: int  # bytes for the weights of all models and for activations
    present: list[PlannedWeights]  # in memory, in any order
    unloadings: list[Unloading] = field(default_factory=list)
    peak: int = 0
    working: int = 0  # bytes of activations of who worked last
    placements: dict[PlannedWeights, Placement] = field(
        default_factory=dict
    )  # the tightest of each

    @property
    def held(self) -> int:
        """Bytes reserved for weights."""
        return sum(one.reserved for one in self.present)

    def work(
        self,
        main: PlannedWeights,
        controls: Sequence[PlannedWeights],
        working: int,
        keeps: int = 0,
        together: int = 0,
    ) -> None:
        """Settles a network and its controls, and runs them. working: bytes of activations, with
        the `keeps` bytes of them that stay when its work is done; together: see `chosen`.
        """
        main.kept = 0  # what it keeps from an earlier run is used again, or freed
        team = (*controls, main)
        self.working = self.chosen(main, controls, working, together)
        for one, keep, after in turns(main, controls):
            self._settle(one, keep, after, self.working)
        for one in team:
            one.arrange(one.placement, now=True)
        self.peak = max(self.peak, self.held + self.working)
        main.kept = keeps

    def chosen(
        self, main: PlannedWeights, controls: Sequence[PlannedWeights], working: int, together: int
    ) -> int:
        """Bytes of activations: `together` where all passes of a step go through each layer at a
        time, so that its weight is unpacked once; `working` where they go one after the other, and
        always where `together` is 0. Together if that costs no weights their place: nothing more is
        unloaded, what is resident stays so, and where blocks are streamed anyway few more are.
        """
        if not together:
            return working
        try:
            apart = self._tried(main, controls, working)
            shared = self._tried(main, controls, together)
        except NotEnoughMemory:
            return working
        few = len(main.sizes[1]) // _STREAMED_MORE
        pairs = zip(apart.placements.values(), shared.placements.values(), strict=True)
        free = len(apart.unloadings) == len(shared.unloadings) and all(
            two.streamed <= (one.streamed and one.streamed + few) for one, two in pairs
        )
        return together if free else working

    def _tried(
        self, main: PlannedWeights, controls: Sequence[PlannedWeights], working: int
    ) -> PlannedMemory:
        """A copy in which the network and its controls have settled."""
        every = dict.fromkeys((*self.present, *controls, main))
        copies = {one: PlannedWeights.of(one) for one in every}
        trial = PlannedMemory(self.room, [copies[one] for one in self.present])
        own = [copies[one] for one in controls]
        copies[main].kept = 0
        for one, keep, after in turns(copies[main], own):
            trial._settle(one, keep, after, working)
        return trial

    def leave(self, one: PlannedWeights, before: PlannedWeights | None = None) -> None:
        """Unloads weights."""
        one.arrange(None)
        self.present.remove(one)
        self.unloadings.append(Unloading(one, before, one in self.placements))

    def _settle(
        self,
        one: PlannedWeights,
        keep: Sequence[PlannedWeights],
        after: Sequence[PlannedWeights],
        working: int,
    ) -> None:
        others = [other for other in self.present if other is not one]
        placement, unloaded = decide(one, others, self.room - working, keep, after)
        for other in unloaded:
            self.leave(other, one)
        if one not in self.present:
            self.present.append(one)
        one.arrange(placement)
        one.used = max(other.used for other in self.present) + 1
        known = self.placements.get(one, placement)
        self.placements[one] = min(known, placement, key=lambda p: p.resident)
