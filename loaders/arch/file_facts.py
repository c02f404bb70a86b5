"""Facts about a weight file, and the comparison with the tensors that its own sizes call for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .dims import Shapes
from .expected_tensors import Layout
from .header_view import MARKED, SUPPORTED, HeaderView, formats_of
from .key_maps import KeyMap

FAMILY_KEY = "inkstone_family"  # metadata of our own files, see family.py


@dataclass(frozen=True)
class FileFacts:
    """All facts of a header. `config` has the field names of kernels/configs.py."""

    role: str  # a key of identify.ROLES, or "unknown"
    family: str = "unknown"
    variant: str = ""
    layout: str = ""  # diffusers, wan, transformers, old transformers, plain, bundle ...
    prefix: str = ""
    formats: tuple[str, ...] = ()
    packed: Mapping[str, int] = field(default_factory=dict)  # matrices per packed format
    dtypes: Mapping[str, int] = field(default_factory=dict)  # tensors per dtype name
    parameters: int = 0
    layers: int = 0
    config: Mapping[str, object] = field(default_factory=dict)
    missing: tuple[str, ...] = ()  # our names
    unexpected: tuple[str, ...] = ()  # names of the file
    wrong: tuple[str, ...] = ()  # our names of tensors in a wrong shape
    problem: str = ""  # why this version cannot use it; empty when it can
    sentence: str = ""
    path: str = ""


@dataclass(frozen=True)
class Comparison:
    """A file compared with the layout that it should have."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    problem: str = ""


def compare(shapes: Shapes, names: KeyMap, layout: Layout) -> Comparison:
    """Compares names and shapes with a layout; a wrong rank is left to the loader."""
    missing = tuple(name for name in layout if name not in shapes)
    unknown = tuple(file for ours, file in names.table.items() if ours not in layout)
    wrong = tuple(
        name
        for name, shape in layout.items()
        if name in shapes and len(shapes[name]) == len(shape) and shapes[name] != shape
    )
    problems = [_listed("missing", missing), _listed("unexpected", unknown + names.others)]
    if wrong:
        first = f"{wrong[0]} expected {list(layout[wrong[0]])}, got {list(shapes[wrong[0]])}"
        problems.append(f"{len(wrong)} tensors have wrong shapes ({first})")
    return Comparison(missing, unknown + names.others, wrong, "; ".join(filter(None, problems)))


def _listed(adjective: str, names: tuple[str, ...]) -> str:
    return f"{len(names)} tensors are {adjective} ({', '.join(names[:5])})" if names else ""


def complete(
    view: HeaderView, facts: FileFacts, names: KeyMap, layout: Layout, shapes: Shapes | None = None
) -> FileFacts:
    """Adds counts, formats and the comparison with the layout, the same for every known family."""
    packed = view.packed(names)
    counts = dict(Counter(weight.format for weight in packed.weights.values()).most_common())
    own = {n: e for n, e in view.entries.items() if n.startswith(names.prefix)}  # of several models
    formats = formats_of(replace(view, entries=own) if names.outside else view, counts)
    readable = SUPPORTED | counts.keys()
    unreadable = [f"{f}: not supported yet by this version" for f in formats if f not in readable]
    shapes = shapes or view.shapes(names)
    plain = {ours: file for ours, file in names.table.items() if ours not in packed.parts}
    # by its header alone a packed matrix has another shape: there is nothing to compare
    blind = bool(unreadable or packed.fault) or bool(MARKED & set(formats)) and not counts
    compared = Comparison() if blind else compare(shapes, replace(names, table=plain), layout)
    return replace(
        facts,
        formats=formats,
        packed=counts,
        family=view.metadata.get(FAMILY_KEY, facts.family),
        prefix=names.prefix,
        missing=compared.missing,
        unexpected=compared.unexpected,
        wrong=compared.wrong,
        layout="bundle, " + names.layout if names.outside else names.layout,
        parameters=sum(math.prod(shape) for shape in (layout if blind else shapes).values()),
        problem=facts.problem or "; ".join(unreadable) or packed.fault or compared.problem,
    )
