"""The alpha of LoRA layers by the metadata of their file, for layers without an alpha tensor.

Only fields that a reader is documented to need count: those of diffusers (`lora_adapter_metadata`,
JSON with "transformer.r" and the like) and of PEFT (the same keys without a prefix, or an
adapter_config.json next to the only weight file of a folder), and only for layers of the rank that
they state. An alpha tensor always wins; without any alpha the factor is 1.

Notes of a training run (`ss_network_alpha`, a plain `lora_alpha`) never count: programs that use
them write alpha tensors too, and converters multiply alpha into the factors, drop the tensors and
keep the notes. diffusers and ComfyUI do not read them either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import InkstoneError
from ..formats.hf_folder import read_json
from ..formats.safetensors_header import HeaderRules, parse_json

PREFIXES = {"model": ("transformer.", ""), "text": ("text_encoder.", "")}
_PEFT_KEYS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
_REGEX = frozenset("^$*+?()[]|\\{}")


@dataclass(frozen=True)
class AlphaMetadata:
    """The alphas that metadata gives for one role."""

    alpha: float | None = None
    alphas: Mapping[str, float | None] = field(
        default_factory=dict
    )  # end of a module's name -> alpha
    rslora: bool = False
    rank: float | None = None  # None: not stated, or not the same everywhere

    def alpha_of(self, module: str, rank: int) -> float | None:
        """The alpha of a module of ours; None where the metadata states another rank than it has:
        then they are of the file that it was converted from.
        """
        if self.rank not in (None, rank):
            return None
        for end, alpha in self.alphas.items():
            if module == end or module.endswith("." + end):
                return alpha
        return self.alpha

    def scale(self, module: str, rank: int, alpha: float | None) -> tuple[float, float | None]:
        """(factor of B A, the alpha it came from); `alpha` is the tensor's own, if it has one."""
        if alpha is not None:
            return alpha / rank, alpha
        alpha = self.alpha_of(module, rank)
        if alpha is None:
            return 1.0, None
        return alpha / (math.sqrt(rank) if self.rslora else rank), alpha


def read_alpha(metadata: Mapping[str, str], path: Path, role: str) -> AlphaMetadata:
    """Reads the metadata of a file for one role; InkstoneError for invalid values."""
    config = _adapter_config(metadata, path)
    own = next((p for p in PREFIXES[role] if any(p + k in config for k in _PEFT_KEYS)), None)
    if own is None:
        return AlphaMetadata()
    pattern = config.get(own + "alpha_pattern") or {}
    if not isinstance(pattern, Mapping):
        raise _invalid(path, own + "alpha_pattern", pattern)
    rank = _number(config.get(own + "r"), path, own + "r")
    return AlphaMetadata(
        alpha=_number(config.get(own + "lora_alpha"), path, own + "lora_alpha"),
        alphas={_module_name(key, path): _number(pattern[key], path, key) for key in pattern},
        rslora=config.get(own + "use_rslora") is True,
        rank=None if config.get(own + "rank_pattern") else rank,
    )


def _adapter_config(metadata: Mapping[str, str], path: Path) -> Mapping[str, object]:
    text = metadata.get("lora_adapter_metadata")
    if text is not None:
        try:
            return parse_json(text.encode("utf-8", "replace"), HeaderRules(convert_number=float))
        except InkstoneError as error:
            raise InkstoneError(
                f"{path}: its metadata lora_adapter_metadata, which holds the LoRA's alpha, cannot "
                f"be read: {error}. Download the file again."
            ) from None
    config = path.with_name("adapter_config.json")
    if not config.is_file() or len(list(path.parent.glob("*.safetensors"))) != 1:
        return {}
    return read_json(config)


def _module_name(key: str, path: Path) -> str:
    """A key of a pattern as the end of a module's name; regular expressions are refused."""
    name = key.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not _REGEX.isdisjoint(name):
        raise InkstoneError(
            f"{path}: the alpha pattern {key[:80]!r} in its metadata is a regular expression, "
            "expected names of modules. Save the LoRA again with one alpha for all modules."
        )
    return name


def _number(value: object, path: Path, key: str) -> float | None:
    """A finite number, also written as text; None where the value is null."""
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise _invalid(path, key, value)
    return number


def _invalid(path: Path, key: str, value: object) -> InkstoneError:
    return InkstoneError(
        f"{path}: its metadata has {key} = {str(value)[:40]!r}, expected a number. Download the "
        "file again, or save the LoRA again with its trainer."
    )
