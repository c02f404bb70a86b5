"""What a weight file is, told from its tensors and metadata, never from its name.

`identify` gives facts and one sentence; `require` turns a misplaced or unusable file into an error
that says what it is and where it belongs. Nothing but headers is read.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...errors import InkstoneError
from ..formats.gguf_metadata import ARCHITECTURE
from ..formats.hf_folder import config_of, known_config
from ..formats.open import Weights, open_weights
from ..formats.safetensors_header import MAX_HEADER, TensorEntry, sniff
from .recognizers import FileFacts, recognize

__all__ = ["ROLES", "FileFacts", "describe", "identify", "require"]

# role -> (in words, folder of the host's models, which loader takes it)
ROLES = {
    "diffusion_model": ("diffusion model", "models/diffusion_models", "the diffusion model loader"),
    "text_encoder": ("text encoder", "models/text_encoders", "the text encoder loader"),
    "vae": ("VAE", "models/vae", "the VAE loader"),
    "lora": ("LoRA", "models/loras", "the LoRA node, behind the diffusion model loader"),
    "vision": (
        "vision tower (mmproj)",
        "models/text_encoders, beside the text encoder",
        "the text encoder loader, which finds it there",
    ),
    "controlnet": ("ControlNet", "models/controlnet", "the ControlNet loader"),
}
WORDS = {"qwen-image": "Qwen-Image", "qwen2.5-vl": "Qwen2.5-VL", "inkstone-embedded": "embedded"}
OURS = frozenset({*WORDS, "qwen-image, perhaps", "qwen2.5-vl, perhaps"})


def _amount(parameters: int) -> str:
    unit, word = next(((u, w) for u, w in ((1e9, "B"), (1e6, "M")) if parameters >= u), (1e3, "k"))
    return f"{parameters / unit:.3g} {word} parameters"


def _sentence(facts: FileFacts) -> str:
    """E.g. "Qwen-Image diffusion model, layered, 60 layers, 20.4 B parameters, bf16"."""
    if facts.role not in ROLES:
        return facts.sentence if facts.family == "unknown" else facts.problem
    known = WORDS.get(facts.family, facts.family) + " " if facts.family in OURS else ""
    parts = [known + ROLES[facts.role][0], facts.variant]
    parts += [f"{facts.layers} layers"] if facts.layers and facts.role != "vae" else []
    forms = (f"{facts.packed[f]} x {f}" if f in facts.packed else f for f in facts.formats)
    parts += [_amount(facts.parameters), " + ".join(forms)]
    return ", ".join(filter(None, parts)) + (f": {facts.problem}" if facts.problem else "")


def describe(
    entries: Mapping[str, TensorEntry],
    metadata: Mapping[str, str],
    config: Mapping[str, object] | None = None,
    want: str | None = None,
    source: Weights | None = None,
) -> FileFacts:
    """Facts from a header. `config` is the config.json beside it; `want` the part of a bundle;
    `source` the open file, where there is one: settings of packed layers are read from it."""
    facts = recognize(entries, metadata, known_config(config or {}), want, source)
    facts = facts or FileFacts("unknown", problem="no model that this version knows has such names")
    counts = Counter(entry.type_name for entry in entries.values())
    total = facts.parameters or sum(entry.numel for entry in entries.values())
    some = ", ".join(sorted(entries)[:3])
    told = metadata.get(ARCHITECTURE)
    some += f" ...; it says its architecture is {told}" if told else " ..."
    facts = replace(
        facts,
        dtypes=dict(counts),
        parameters=total,
        sentence=f"a file of no known kind with {len(entries)} tensors ({some})",
    )
    return replace(facts, sentence=_sentence(facts))


def _other_format(path: Path) -> FileFacts | None:
    """Facts about a file that no reader takes, by its first bytes."""
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


def identify(source: str | Path | Weights, want: str | None = None) -> FileFacts:
    """Facts about a file, an index, a folder or an open one; a pickle is told in words.

    `want` ("vae", "text_encoder") asks for that part of a bundle. A damaged file raises.
    """
    if not isinstance(source, str | Path):
        found = describe(source.entries, source.metadata, config_of(source.path), want, source)
        return replace(found, path=str(source.path))
    path = Path(source)
    other = _other_format(path) if path.is_file() and path.suffix != ".json" else None
    if other:
        return other
    with open_weights(path) as weights:
        config = config_of(path)
        found = describe(weights.entries, weights.metadata, config, want, weights)
        return replace(found, path=str(path))


def require(facts: FileFacts, role: str) -> None:
    """Raises InkstoneError unless the file is usable as `role`: what it is, where it belongs."""
    word, folder, _ = ROLES[role]
    if facts.role == role and not facts.problem:
        return
    where = f"Choose another file from {folder}."
    if facts.role == role and (facts.missing or facts.unexpected or facts.wrong):
        where = f"Download it again, or choose another file from {folder}."
    elif facts.role != role and facts.role in ROLES and facts.family in OURS:
        where = "It belongs in {1} and is loaded with {2}.".format(*ROLES[facts.role])
    raise InkstoneError(
        f"{facts.path or 'the file'}: expected a {word} of Qwen-Image, got: "
        f"{facts.sentence}. {where}"
    )
