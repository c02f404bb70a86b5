"""A draw as a graph of our nodes that draws the same picture: what its PNG carries, so that it
opens on ComfyUI's page and runs again without it.

Nodes and command line call the same functions, so the pictures are equal; Save Image cuts values
to 8 bits where a draw rounds them, which is at most 1/255. Memory and device are the host's to
choose in a graph, and change no picture. What a graph cannot say otherwise is told in `notes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...nodes.control import ApplyControlNet, LoadControlNet
from ...nodes.decode import Decode
from ...nodes.edit import FIXED as FIXED_PICTURES
from ...nodes.edit import MOST, EncodeEdit, EncodeLayers, ImageToLatent
from ...nodes.encode import EncodePrompt
from ...nodes.inpaint import Inpaint, StitchPart
from ...nodes.load import AUTO, EMBEDDED, LoadAll, LoadDiffusionModel, LoadTextEncoder, LoadVAE
from ...nodes.lora import FIXED, LoadLora, LoraStack
from ...nodes.preprocess import ControlPicture
from ...nodes.sample import CUSTOM, SCHEDULES, Denoise, EmptyLatent, ScheduleSigmas, sizes
from ...pipeline.edit import AUTO as WORK
from ...pipeline.edit import CROPS, LAYER_AREAS
from .controls import MAP
from .file_names import INPUT, FileNames, PictureTraits, is_embedded
from .task import FEATHER

if TYPE_CHECKING:
    from .controls import Asked
    from .request import DrawCall, Settings

Graph = dict[str, dict[str, Any]]
Link = list
LEAST = 0.01  # strength that Inkstone Schedule takes
EXACT = 2**53  # whole numbers above it are rounded by the page
PREFIX = "inkstone/picture"


@dataclass(frozen=True)
class Drawn:
    """What a call became, beside its settings: what only the files and the model could say."""

    settings: Settings
    kind: str = "text"  # of the task: text, image, edit, layers
    prompt: str = ""  # as it was encoded
    layers: int = 0
    framed: bool = False  # no picture is given, and the result has the size of the first map
    shown: tuple[tuple[bool, bool], ...] = ()  # of each control: the repainted picture, the mask
    held: Mapping[Path, PictureTraits] = field(default_factory=dict)
    statistics: bool = True  # latents are those of the model's own folder


@dataclass(frozen=True)
class CallGraph:
    """An API graph, what it cannot say, and the files that it names. grown: it has sockets that
    only a newer ComfyUI makes.
    """

    api: Graph
    notes: tuple[str, ...]
    names: FileNames
    grown: bool = False


def call_graph(call: DrawCall, drawn: Drawn, seed: int) -> CallGraph:
    """The graph of one picture of a call, the one with this seed."""
    return _Maker(call, drawn, seed % 2**64).made()


class _Maker:
    """One graph: its nodes so far, and where the next finds its inputs."""

    def __init__(self, call: DrawCall, drawn: Drawn, seed: int) -> None:
        self.call, self.drawn, self.seed = call, drawn, seed
        self.graph: Graph = {}
        self.names = FileNames()
        self.notes: list[str] = []
        self._pictures: dict[Path, Link] = {}
        self.dtype = call.dtype or "auto"
        self.variant = call.variant or AUTO

    def made(self) -> CallGraph:
        """The story of a picture, from files to file."""
        call, run = self.call, self.drawn.settings
        model, text, vae = self._with_loras(*self._models())
        pictures = [self._picture(p, f"Picture {n}") for n, p in enumerate(call.image, 1)]
        mask = self._mask()
        painted = self._painted(vae, pictures, mask)
        encoded = self._encoded((model, text, vae), pictures, painted)
        positive = self._controlled(encoded["positive"], vae, pictures, mask)
        latent = painted or encoded.get("latent") or self._canvas(vae, pictures)
        schedule = self.add(
            ScheduleSigmas.ID,
            {
                "model": model,
                "latent": latent,
                "steps": run.steps,
                "schedule": SCHEDULES[0],
                "strength": self._strength(),
            },
        )
        denoise = self.add(
            Denoise.ID,
            {
                "model": model,
                "positive": positive,
                "sigmas": schedule,
                "latent": latent,
                "seed": self.seed,
                "cfg": run.cfg,
                **({"negative": encoded["negative"]} if run.cfg > 1 else {}),
            },
        )
        image = self.add(Decode.ID, {"vae": vae, "latent": denoise})
        image = self._finished(image, painted)
        self.add("SaveImage", {"images": image, "filename_prefix": PREFIX})
        grown = self.drawn.kind == "edit" and len(pictures) > FIXED_PICTURES
        return CallGraph(self.graph, tuple(self._unsaid(grown)), self.names, grown)

    def add(self, kind: str, inputs: Mapping[str, Any], title: str = "") -> Link:
        """One more node; the link of its first output."""
        key = str(len(self.graph) + 1)
        self.graph[key] = {"class_type": kind, "inputs": dict(inputs)}
        if title:
            self.graph[key]["_meta"] = {"title": title}
        return [key, 0]

    # ---- files ---------------------------------------------------------------------------------

    def _models(self) -> tuple[Link, Link, Link]:
        """Model, text encoder and VAE: of one folder, or each of its own."""
        call, names = self.call, self.names
        whole = is_embedded(call.model)
        alone = call.text_encoder is None and call.vae is None
        told = {"dtype": self.dtype}
        if whole or alone:
            folder = EMBEDDED if whole else names.of("diffusers", call.model)
            inputs = {"folder": folder, **told, "variant": self.variant}
            key = self.add(LoadAll.ID, inputs)[0]
            model, text, vae = ([key, slot] for slot in range(3))
        else:
            name = names.of("diffusion_models", call.model)
            inputs = {"model": name, **told, "variant": self.variant}
            model, text, vae = self.add(LoadDiffusionModel.ID, inputs), None, None
        if text is None or call.text_encoder is not None:
            name = names.of("text_encoders", call.text_encoder or call.model)
            text = self.add(LoadTextEncoder.ID, {"text_encoder": name, **told})
        if vae is None or call.vae is not None:
            name = names.of("vae", call.vae or call.model)
            vae = self.add(LoadVAE.ID, {"vae": name, **told})
        return model, text, vae

    def _with_loras(self, model: Link, text: Link, vae: Link) -> tuple[Link, Link, Link]:
        """Stacks of as many as every host has sockets for, one behind the other."""
        loras = [
            self.add(
                LoadLora.ID,
                {"lora": self.names.of("loras", path), "strength": strength, "blocks": ""},
                f"LoRA {n}" if len(self.call.lora) > 1 else "",
            )
            for n, (path, strength) in enumerate(self.call.lora, 1)
        ]
        for start in range(0, len(loras), FIXED):
            some = enumerate(loras[start : start + FIXED])
            inputs = {"model": model, **{f"loras.lora_{n}": link for n, link in some}}
            model = self.add(LoraStack.ID, inputs | {"text_encoder": text})
            text = [model[0], 2]
        return model, text, vae

    def _picture(self, path: Path, title: str) -> Link:
        """A picture as a draw reads it: one frame, with alpha where a pixel is transparent."""
        if path not in self._pictures:
            held = self.drawn.held.get(path, PictureTraits())
            loaded = self.add("LoadImage", {"image": self.names.of(INPUT, path)}, title)
            image, mask = loaded, [loaded[0], 1]
            if held.clear:
                image = self.add("JoinImageWithAlpha", {"image": image, "alpha": mask})
            if held.moving:
                one = {"image": image, "batch_index": 0, "length": 1}
                image = self.add("ImageFromBatch", one)
            self._pictures[path] = image
        return self._pictures[path]

    def _mask(self) -> Link | None:
        """What is transparent in its file, or else white."""
        path = self.call.mask
        if path is None:
            return None
        held = self.drawn.held.get(path, PictureTraits())
        if held.coloured and not held.clear:
            self.notes.append(f"of the mask {path.name}, which has colours, it reads the red alone")
        name = self.names.of(INPUT, path)
        channel = "alpha" if held.clear else "red"
        return self.add("LoadImageMask", {"image": name, "channel": channel}, "Mask")

    # ---- what is drawn -------------------------------------------------------------------------

    def _painted(self, vae: Link, pictures: list[Link], mask: Link | None) -> Link | None:
        """The latent of a picture of which a part is drawn anew."""
        if mask is None or not pictures:
            return None
        return self.add(
            Inpaint.ID,
            {
                "vae": vae,
                "image": pictures[0],
                "mask": mask,
                "grow": 0,
                "feather": FEATHER,
                "crop": CROPS[0],
                "work_size": WORK,
            },
        )

    def _encoded(
        self, models: tuple[Link, Link, Link], pictures: list[Link], painted: Link | None
    ) -> dict[str, Link]:
        """positive and negative, and the latent where the same node gives it."""
        model, text, vae = models
        run, kind = self.drawn.settings, self.drawn.kind
        inputs = {"text_encoder": text, "prompt": self.drawn.prompt, "negative": run.negative}
        if kind == "edit":
            seen = [[painted[0], 2], *pictures[1:]] if painted else pictures
            if len(seen) > MOST:
                self.notes.append(f"of {len(seen)} pictures it shows the first {MOST}")
            named = {f"images.picture_{n}": x for n, x in enumerate(seen[:MOST], 1)}
            inputs |= {"model": model, "vae": vae, "work_size": WORK, **named}
            key = self.add(EncodeEdit.ID, inputs)[0]
        elif kind == "layers":
            area = next(iter(LAYER_AREAS))
            inputs |= {"vae": vae, "image": pictures[0], "layers": self.drawn.layers, "area": area}
            key = self.add(EncodeLayers.ID, inputs)[0]
        else:
            key = self.add(EncodePrompt.ID, inputs)[0]
        made = {"positive": [key, 0], "negative": [key, 1]}
        return made | ({"latent": [key, 2]} if kind in ("edit", "layers") else {})

    def _controlled(
        self, positive: Link, vae: Link, pictures: list[Link], mask: Link | None
    ) -> Link:
        """The positive prompt with every control behind it."""
        asked, models = self.call.control, self._controls()
        for n, (one, model, shown) in enumerate(zip(asked, models, self.drawn.shown), 1):
            title = f" {n}" if len(asked) > 1 else ""
            inputs = {
                "positive": positive,
                "control": model,
                "vae": vae,
                "image": self._map(one, title),
                "strength": one.strength,
                "start": one.start,
                "end": one.end,
            }
            source, masked = shown
            inputs |= {"source": pictures[0]} if source else {}
            inputs |= {"mask": mask} if masked and mask else {}
            positive = self.add(ApplyControlNet.ID, inputs, title and f"Control{title}")
        return positive

    def _controls(self) -> list[Link]:
        """The loader of each control; a file that serves several is loaded once."""
        paths, count = list(self.call.control_model), len(self.call.control)
        own = self.call.model
        names = [self.names.of("controlnet", path) for path in paths]
        if count and not paths:  # that of the model's own folder
            names = [EMBEDDED if is_embedded(own) else self.names.of("controlnet", own)]
        loaders = {
            name: self.add(LoadControlNet.ID, {"control": name, "dtype": self.dtype})
            for name in dict.fromkeys(names)
        }
        return [loaders[name] for name in (names * count if len(names) == 1 else names)]

    def _map(self, asked: Asked, title: str) -> Link:
        """The picture of a control as its map."""
        picture = self._picture(asked.path, f"Control picture{title}")
        if asked.kind == MAP:
            return picture
        return self.add(ControlPicture.ID, {"image": picture, "type": asked.kind})

    def _canvas(self, vae: Link, pictures: list[Link]) -> Link:
        """An empty canvas; a picture to start from; or one that gives its size alone."""
        if pictures or self.drawn.framed:
            image = pictures[0] if pictures else self._picture(self.call.control[0].path, "")
            inputs = {"vae": vae, "image": image, "work_size": WORK}
            return self.add(ImageToLatent.ID, inputs)
        width, height = size = self.drawn.settings.size
        name = next((name for name, one in sizes().items() if one == size), CUSTOM)
        inputs = {"size": name, "width": width, "height": height, "batch_size": 1}
        return self.add(EmptyLatent.ID, inputs)

    def _strength(self) -> float:
        """As the schedule takes it."""
        strength = self.drawn.settings.strength
        if strength < LEAST:
            self.notes.append(f"its strength is {LEAST:g}, not {strength:g}")
        return max(strength, LEAST)

    def _finished(self, image: Link, painted: Link | None) -> Link:
        """Put back into its picture, or with the alpha of the picture that it has the place of."""
        if painted:
            return self.add(StitchPart.ID, {"image": image, "stitch": [painted[0], 1]})
        first = next(iter(self.call.image), None)
        held = self.drawn.held.get(first, PictureTraits())
        if self.drawn.kind not in ("image", "edit") or not held.clear:
            return image
        mask = [next(k for k, n in self.graph.items() if n["class_type"] == "LoadImage"), 1]
        if held.moving:
            alpha = {"image": self._pictures[first], "channel": "alpha"}
            mask = self.add("InvertMask", {"mask": self.add("ImageToMask", alpha)})
        return self.add("JoinImageWithAlpha", {"image": image, "alpha": mask})

    def _unsaid(self, grown: bool) -> list[str]:
        """Where files go, and what the nodes cannot be told."""
        made = self.names.away() + self.notes
        if grown:
            made.append(f"more than {FIXED_PICTURES} pictures need a ComfyUI with growing inputs")
        if not self.drawn.statistics:
            made.append(
                "the VAE has statistics of latents of its own, which a diffusion model loaded from "
                "another place does not know: it draws another picture"
            )
        if self.seed > EXACT:
            made.append(f"the page rounds the seed {self.seed}; inkstone run does not")
        return made
