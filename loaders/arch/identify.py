"""Identifies a weight file by its tensors and metadata, never by its name.

`identify` gives facts and one sentence; `require` turns a misplaced or unusable file into an error
that says what it is and where it belongs; `open_as` opens a file once for both and for the loader.
Only headers are read.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from ...errors import InkstoneError
from ..formats.file_reader import Stamp, stamp_of
from ..formats.gguf_metadata import ARCHITECTURE
from ..formats.hf_folder import config_of, known_config
from ..formats.open import open_weights
from ..formats.safetensors_header import MAX_HEADER, sniff
from ..formats.weight_reader import WeightReader
from .encoder_models import ENCODER_MODELS
from .family import FAMILIES
from .file_facts import FileFacts
from .header_view import HeaderView
from .recognizers import recognize

# role -> (its name, folder of the host's models, which loader takes it)
ROLES = {
    "diffusion_model": ("diffusion model", "models/diffusion_models", "the diffusion model loader"),
    "text_encoder": ("text encoder", "models/text_encoders", "the text encoder loader"),
    "vae": ("VAE", "models/vae", "the VAE loader"),
    "lora": ("LoRA", "models/loras", "the LoRA node, behind the diffusion model loader"),
    "vision": (
        "vision tower (mmproj)",
        "models/text_encoders, next to the text encoder",
        "the text encoder loader, which finds it there",
    ),
    "controlnet": ("ControlNet", "models/controlnet", "the ControlNet loader"),
}
# a checkpoint is a diffusion model, and what it may have beside it in the same file
CHECKPOINT, BESIDE = "diffusion_model", ("text_encoder", "vae")
TITLES = {family.name: family.title for family in FAMILIES.values()} | {
    model.name: model.title for model in ENCODER_MODELS.values()
}
OURS = frozenset({*TITLES, "qwen-image, perhaps", "qwen2.5-vl, perhaps"})


def _amount(parameters: int) -> str:
    unit, word = next(((u, w) for u, w in ((1e9, "B"), (1e6, "M")) if parameters >= u), (1e3, "k"))
    return f"{parameters / unit:.3g} {word} parameters"


def _sentence(facts: FileFacts) -> str:
    """E.g. "Qwen-Image diffusion model, layered, 60 layers, 20.4 B parameters, bf16"."""
    if facts.role not in ROLES:
        return facts.sentence if facts.family == "unknown" else facts.problem
    known = TITLES.get(facts.family, facts.family) + " " if facts.family in OURS else ""
    parts = [known + ROLES[facts.role][0], facts.variant]
    parts += [f"{facts.layers} layers"] if facts.layers and facts.role != "vae" else []
    forms = (f"{facts.packed[f]} x {f}" if f in facts.packed else f for f in facts.formats)
    parts += [_amount(facts.parameters), " + ".join(forms)]
    return ", ".join(filter(None, parts)) + (f": {facts.problem}" if facts.problem else "")


def describe(view: HeaderView, want: str | None = None) -> FileFacts:
    """Facts from a header; `want` names the part of a bundle ("vae", "text_encoder")."""
    facts = recognize(view, want)
    facts = facts or FileFacts("unknown", problem="no model that this version knows has such names")
    counts = Counter(entry.type_name for entry in view.entries.values())
    total = facts.parameters or sum(entry.numel for entry in view.entries.values())
    some = ", ".join(sorted(view.entries)[:3])
    architecture = view.metadata.get(ARCHITECTURE)
    some += f" ...; its architecture is {architecture}" if architecture else " ..."
    facts = replace(
        facts,
        dtypes=dict(counts),
        parameters=total,
        sentence=f"a file of no known kind with {len(view.entries)} tensors ({some})",
    )
    path = str(view.source.path) if view.source is not None else ""
    return replace(facts, sentence=_sentence(facts), path=path)


def _other_format(path: Path) -> FileFacts | None:
    """Facts about a file that no reader takes, by its first bytes; None where it is no such."""
    if not path.is_file() or path.suffix == ".json":
        return None
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError:
        return None  # opening it as weights says why
    seems = sniff(head)
    length = int.from_bytes(head[:8], "little")  # where a .safetensors file has its header's length
    if not seems or head.startswith(b"GGUF") or length <= min(MAX_HEADER, path.stat().st_size):
        return None
    problem = f"it is {seems}".rstrip(".")
    return FileFacts("unknown", problem=problem, sentence=problem, path=str(path))


def view_of(source: WeightReader, config: Mapping[str, object] | None = None) -> HeaderView:
    """The view of an open file. config: the config.json next to it, where it was read already."""
    config = config_of(source.path) if config is None else config
    return HeaderView(source.entries, source.metadata, known_config(config), source)


def _open(path: Path) -> WeightReader | FileFacts:
    """The open file, or facts about one in a format that no reader takes."""
    try:
        return open_weights(path)
    except InkstoneError:
        other = _other_format(path)
        if other is None:
            raise
        return other


def identify(path: str | Path, want: str | None = None) -> FileFacts:
    """Facts about a file, an index or a folder; a pickle gives facts too, a damaged file raises.

    `want` ("vae", "text_encoder") asks for that part of a bundle.
    """
    path = Path(path)
    source = _open(path)
    if isinstance(source, FileFacts):
        return source
    with source:
        return replace(describe(view_of(source, config_of(path)), want), path=str(path))


def identify_parts(path: str | Path) -> list[FileFacts]:
    """Facts about each model in a file: a checkpoint of ComfyUI has three in one."""
    path = Path(path)
    source = _open(path)
    if isinstance(source, FileFacts):
        return [source]
    with source:
        view = view_of(source, config_of(path))
        first = describe(view)
        others = (describe(view, part) for part in BESIDE) if first.role == CHECKPOINT else ()
        parts = [first, *(facts for facts in others if facts.role in BESIDE)]
    return [replace(facts, path=str(path)) for facts in parts]


def parts_beside(path: Path) -> frozenset[str]:
    """The roles of BESIDE that a checkpoint has in the same file; empty for any other file. Only
    its header is read, once as long as it does not change.
    """
    try:
        return _parts_beside(path.absolute(), stamp_of(path.stat()))
    except (OSError, InkstoneError):
        return frozenset()  # loading it says why


@lru_cache(maxsize=64)
def _parts_beside(path: Path, stamp: Stamp) -> frozenset[str]:
    """stamp: of the file that is read."""
    return frozenset(facts.role for facts in identify_parts(path)) & {*BESIDE}


def open_as(
    path: Path, config: Mapping[str, object], *roles: str, opened: WeightReader | None = None
) -> tuple[WeightReader, HeaderView, FileFacts]:
    """Opens a weight file that must be usable in one of the roles; else it raises as `require` of
    the first does. The file stays open: models read their weights from it when they need them.
    opened: the file where it is open already.
    """
    source = opened or _open(path)
    if isinstance(source, FileFacts):
        raise refusal(source, roles[0])
    try:
        view = view_of(source, config)
        facts = replace(describe(view, roles[0]), path=str(path))
        if facts.role not in roles or facts.problem:
            raise refusal(facts, roles[0])
    except BaseException:
        source.close()
        raise
    return source, view, facts


def require(facts: FileFacts, role: str) -> None:
    """Raises InkstoneError unless the file is usable as `role`."""
    if facts.role != role or facts.problem:
        raise refusal(facts, role)


def refusal(facts: FileFacts, role: str) -> InkstoneError:
    """The error for a file that is not usable as `role`: what it is, where it belongs."""
    word, folder, _ = ROLES[role]
    where = f"Choose another file from {folder}."
    if facts.role == role and (facts.missing or facts.unexpected or facts.wrong):
        where = f"Download it again, or choose another file from {folder}."
    elif facts.role != role and facts.role in ROLES and facts.family in OURS:
        where = "It belongs in {1} and is loaded with {2}.".format(*ROLES[facts.role])
    return InkstoneError(
        f"{facts.path or 'the file'}: expected a {word} of Qwen-Image, got: "
        f"{facts.sentence}. {where}"
    )
