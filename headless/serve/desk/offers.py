"""Models and LoRAs that a server offers, by name: no path comes from a client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ....errors import CallError
from ....host.headless import HeadlessHost, using
from ....host.model_folders import model_files, model_path
from ....loaders.models.load import EMBEDDED_FOLDER
from ...node_types import Json
from .refusal import Refusal

EMBEDDED = "inkstone-embedded"
_WHOLE = ("checkpoints", "diffusers")  # kinds with all that a drawing needs
_LISTED = 20  # names in a message


class Offers:
    """What is below the models folder, and the model that the server was started with. names:
    further ones of that model. Raises CallError where another model has one of them.
    """

    def __init__(
        self, models: Path, defaults: Mapping[str, Json], names: Sequence[str] = ()
    ) -> None:
        self.folder = models
        self._host, self._defaults = HeadlessHost(models=(models,)), dict(defaults)
        own = self._defaults.get("model")
        self.default = EMBEDDED if own is None else Path(own).name
        self._names: tuple[str, ...] = ()
        others = set(self.models()) - {self.default}
        for name in names:
            if name in others:
                raise CallError(
                    f"--model-name {name}: another model of this server has that name. Choose one "
                    "that is free."
                )
        self._names = tuple(names)

    def models(self) -> list[str]:
        """Names of all models, those of the default first."""
        names = [self.default, *self._names, EMBEDDED]
        with using(self._host):
            for kind in self._kinds():
                names += model_files(kind)
        return list(dict.fromkeys(names))

    def _kinds(self) -> tuple[str, ...]:
        """A single diffusion model needs the parts that the server was started with."""
        parts = self._defaults.get("text_encoder") and self._defaults.get("vae")
        return ("diffusion_models", *_WHOLE) if parts else _WHOLE

    def model(self, name: str | None) -> dict[str, Json]:
        """The values of DrawCall for a model; of None the default. Raises Refusal."""
        if name in (None, self.default, *self._names):
            return self._defaults
        shared = {k: v for k, v in self._defaults.items() if k in ("dtype", "memory", "device")}
        if name == EMBEDDED:
            return shared | {"model": EMBEDDED_FOLDER}
        with using(self._host):
            for kind in self._kinds():
                if name in model_files(kind):
                    path = model_path(kind, name)
                    alone = kind in _WHOLE
                    return (shared if alone else self._defaults) | {"model": path}
        raise self._absent("model", name, self.models(), 404)

    def file(self, kind: str, name: str, param: str) -> Path:
        """The file of a LoRA or control. Raises Refusal."""
        with using(self._host):
            names = model_files(kind)
            if name in names:
                return model_path(kind, name)
        raise self._absent(param, name, names, 400)

    def loras(self) -> list[str]:
        """Names of the LoRAs."""
        with using(self._host):
            return model_files("loras")

    def controls(self) -> list[str]:
        """Names of the control models."""
        with using(self._host):
            return model_files("controlnet")

    @staticmethod
    def _absent(param: str, name: str | None, names: list[str], status: int) -> Refusal:
        known = f"It has: {', '.join(names[:_LISTED])}." if names else "Its models folder has none."
        return Refusal(
            f'This server has no {param} "{str(name)[:120]}". {known}',
            status,
            param,
            "model_not_found" if status == 404 else None,
        )
