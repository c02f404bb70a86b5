"""What a LoRA file's metadata says about alpha, for tensors that do not carry one.

Writers: diffusers (`lora_adapter_metadata`, JSON with "transformer.r" and the like), PEFT (the same
keys bare, or an adapter_config.json beside the only weight file of a folder), kohya
(`ss_network_alpha`), distillers (a plain `lora_alpha`). A tensor's own alpha always wins; without
any the factor is 1.
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
_PLAIN = ("ss_network_alpha", "lora_alpha", "network_alpha", "alpha")  # values are numbers as text
_PEFT_KEYS = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
_REGEX = frozenset("^$*+?()[]|\\{}")


@dataclass(frozen=True)
class Said:
    """What metadata says for one role."""

    alpha: float | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)  # end of a module's name -> alpha
    rslora: bool = False

    def alpha_of(self, module: str) -> float | None:
        """The alpha of a module of ours."""
        for end, alpha in self.alphas.items():
            if module == end or module.endswith("." + end):
                return alpha
        return self.alpha

    def scale(self, module: str, rank: int, alpha: float | None) -> tuple[float, float | None]:
        """(factor of B A, the alpha it came from); `alpha` is the tensor's own, if it has one."""
        if alpha is not None:
            return alpha / rank, alpha
        told = self.alpha_of(module)
        if told is None:
            return 1.0, None
        return told / (math.sqrt(rank) if self.rslora else rank), told


def said(metadata: Mapping[str, str], path: Path, role: str) -> Said:
    """Reads it all; InkstoneError for what is there and makes no sense."""
    config = _adapter_config(metadata, path)
    own = next((p for p in PREFIXES[role] if any(p + k in config for k in _PEFT_KEYS)), None)
    if own is not None:
        pattern = config.get(own + "alpha_pattern") or {}
        if not isinstance(pattern, Mapping):
            raise _senseless(path, own + "alpha_pattern", pattern)
        return Said(
            _number(config.get(own + "lora_alpha"), path, own + "lora_alpha"),
            {_plain(key, path): _number(pattern[key], path, key) for key in pattern},
            config.get(own + "use_rslora") is True,
        )
    plain = next((k for k in _PLAIN if metadata.get(k, "") not in ("", "None", "null")), None)
    return Said(_number(metadata[plain], path, plain)) if plain else Said()


def _adapter_config(metadata: Mapping[str, str], path: Path) -> Mapping[str, object]:
    text = metadata.get("lora_adapter_metadata")
    if text is not None:
        rules = HeaderRules()
        rules.other = float
        try:
            return parse_json(text.encode("utf-8", "replace"), rules)
        except InkstoneError as error:
            raise InkstoneError(
                f"{path}: its metadata lora_adapter_metadata, which holds the LoRA's alpha, cannot "
                f"be read: {error}. Download the file again."
            ) from None
    beside = path.with_name("adapter_config.json")
    if not beside.is_file() or len(list(path.parent.glob("*.safetensors"))) != 1:
        return {}
    return read_json(beside)


def _plain(key: str, path: Path) -> str:
    """A key of a pattern as the end of a module's name; whole regular expressions are refused."""
    name = key.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not _REGEX.isdisjoint(name):
        raise InkstoneError(
            f"{path}: the alpha pattern {key[:80]!r} in its metadata is a regular expression, "
            "expected names of modules. Save the LoRA again with one alpha for all modules."
        )
    return name


def _number(value: object, path: Path, key: str) -> float | None:
    """A finite number, also written as text; None stays None."""
    if value is None:
        return None
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise _senseless(path, key, value)
    return number


def _senseless(path: Path, key: str, value: object) -> InkstoneError:
    return InkstoneError(
        f"{path}: its metadata says {key} = {str(value)[:40]!r}, expected a number. Download the "
        "file again, or save the LoRA again with its trainer."
    )
