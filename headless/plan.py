"""The plan of a draw: what will be in memory, from file headers alone, before anything is loaded.

Weights are counted in the type they will be computed in; modulation weights are not resident (they
are streamed into a table) and are named apart. Streaming of models that do not fit is not in this
version: a plan that does not fit says so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ..kernels.memory import available_ram
from ..kernels.modulation import modulation_keys
from .draw import DrawCall, parts_of

SLABS = 8  # tensors of [tokens, width] alive at once in a block: streams, norms, q, k, v, output


@dataclass(frozen=True)
class Plan:
    """Bytes of each part, and whether they fit."""

    text_encoder: int
    diffusion_model: int
    modulation_on_disk: int
    modulation_table: int
    vae: int
    activations: int
    budget: int

    @property
    def total(self) -> int:
        """Everything that is resident at once."""
        return (
            self.text_encoder
            + self.diffusion_model
            + self.modulation_table
            + self.vae
            + self.activations
        )

    def sentence(self) -> str:
        """One line for people."""
        g = {k: f"{v / 1e9:.2f} GB" for k, v in asdict(self).items()}
        verdict = (
            "all resident"
            if self.total <= self.budget
            else ("DOES NOT FIT: use a smaller size, a smaller type, or a machine with more memory")
        )
        return (
            f"plan: text encoder {g['text_encoder']}, MMDiT {g['diffusion_model']} "
            f"(+ {g['modulation_on_disk']} modulation streamed from the file into a table of "
            f"{g['modulation_table']}), VAE {g['vae']}, activations {g['activations']}: "
            f"{self.total / 1e9:.2f} of {g['budget']}: {verdict}"
        )


def plan(call: DrawCall) -> Plan:
    """Reads headers only."""
    import torch

    from ..kernels.vae import VAEConfig
    from ..kernels.vae_rows import plan_rows
    from ..loaders import bundle as b
    from ..loaders.detect import identify, require
    from ..loaders.family import family_of
    from ..loaders.safetensors_file import open_weights

    root, text, vae = parts_of(call)
    sizes, facts = {}, {}
    for role, path, folder in (
        ("diffusion_model", root, "transformer"),
        ("text_encoder", text, "text_encoder"),
        ("vae", vae, "vae"),
    ):
        part = path / folder if (path / folder).is_dir() else path
        facts[role] = identify(part, want=role)
        require(facts[role], role)
        with open_weights(part) as weights:
            sizes[role] = {name: entry.numel for name, entry in weights.entries.items()}
            if role == "diffusion_model":
                family = family_of(weights.metadata)
    device = torch.device(call.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    asked = None if call.dtype is None else getattr(torch, call.dtype)
    total = {role: sum(s.values()) for role, s in sizes.items()}
    item = {r: b.choose_dtype(asked, device, n)[0].itemsize for r, n in total.items()}
    item["vae"] = (asked or torch.float32).itemsize
    config = facts["diffusion_model"].config
    mods = set(modulation_keys(facts["diffusion_model"].layers))
    modulation = sum(
        n for name, n in sizes["diffusion_model"].items() if any(name.endswith(m) for m in mods)
    )
    width = config["heads"] * config["head_dim"]
    size = call.size or family.preset.size
    tokens = size[0] * size[1] // 256 + 64
    steps = call.steps or family.preset.steps
    table = steps * facts["diffusion_model"].layers * 12 * width * item["diffusion_model"]
    block = (SLABS * tokens * width + 1024 * config["ff"]) * call.batch * item["diffusion_model"]
    vae_numbers = {
        k: tuple(v) if isinstance(v, list) else v for k, v in facts["vae"].config.items()
    }
    known = {k: vae_numbers[k] for k in VAEConfig.__dataclass_fields__ if k in vae_numbers}
    _, decode, _ = plan_rows(VAEConfig(**known), size[1], size[0], torch.float32, call.memory)
    budget = call.memory or (
        available_ram()
        if device.type == "cpu"
        else torch.cuda.get_device_properties(device).total_memory
    )
    return Plan(
        text_encoder=total["text_encoder"] * item["text_encoder"],
        diffusion_model=(total["diffusion_model"] - modulation) * item["diffusion_model"],
        modulation_on_disk=modulation * item["diffusion_model"],
        modulation_table=table,
        vae=total["vae"] * item["vae"],
        activations=max(block, decode),
        budget=budget,
    )
