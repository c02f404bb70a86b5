"""The graph of a drawing: load, encode, sample, decode.

The same builder makes the graph that runs here, whose files are named by their paths, and the graph
that a picture carries, whose files are named as the loader nodes list them. What the second cannot
say is in its `notes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...nodes.canvas import CUSTOM, EmptyLatent, sizes
from ...nodes.control import ApplyControlNet
from ...nodes.decode import Decode
from ...nodes.edit import EncodeEdit, EncodeLayers, ImageToLatent
from ...nodes.encode import EncodePrompt
from ...nodes.enhance import EnhancePrompt
from ...nodes.inpaint import Inpaint, StitchPart
from ...nodes.preprocess import ControlPicture
from ...nodes.regions import ROWS, RegionalPrompts
from ...nodes.regions import row as region_row
from ...nodes.sample import Denoise
from ...nodes.sockets import FIXED, GROWN, GROWN_MASKS
from ...nodes.upscale import UpscalePicture
from ...pipeline.edit_choices import AUTO, CROPS, LAYER_AREAS
from ...sampling.region_choices import RegionSettings
from ..core_nodes.load_save import LoadFirstFrame
from .api_builder import ApiBuilder, ApiGraph, Names, Ref
from .control_option import MAP, ControlOption
from .decide import Drawing
from .file_names import INPUT, FilePaths
from .image_traits import PAINT
from .models import ModelRefs, add_models
from .request import DrawCall

FEATHER = 8  # pixels over which the seam of an inpainting fades, inside the mask
EXACT = 2**53  # the page rounds whole numbers above it
PREFIX = "inkstone/picture"


@dataclass(frozen=True)
class DrawGraph:
    """An API graph, where its results are, and what it cannot say. grown: it has sockets that only
    a newer ComfyUI makes.
    """

    api: ApiGraph
    models: ModelRefs
    prompts: tuple[Ref, ...]  # positive, and negative where CFG is on
    latent: Ref | None  # of the sampler; None where a picture is only enlarged
    image: Ref
    notes: tuple[str, ...] = ()
    grown: bool = False
    enhanced: Ref | None = None  # the prompt as it was enhanced


def models_graph(call: DrawCall, names: Names) -> tuple[ApiGraph, ModelRefs]:
    """The loaders of a call alone."""
    graph = ApiBuilder(names)
    models = add_models(graph, call)
    return graph.nodes, models


def draw_graph(
    call: DrawCall, drawing: Drawing, names: Names, seed: int, batch: int = 1, save: bool = False
) -> DrawGraph:
    """The graph of `batch` pictures from this seed on. save: with a node that saves them."""
    graph = _Pictures(names, call, drawing)
    models = add_models(graph, call)
    images = [graph.image(path, f"Picture {n}") for n, path in enumerate(call.image, 1)]
    if drawing.strength == 0:
        return graph.enlarged_only(models, images[0], seed, batch, save)
    mask = graph.mask()
    part = graph.inpainted(models, images, mask)
    prompts, latent = graph.encoded(models, images, part)
    plain = prompts
    prompts = graph.regional(prompts[0], models), prompts[1]
    positive = graph.controlled(prompts[0], models, images, mask)
    if drawing.size is not None:  # of an edit too: its references stay on the prompts
        latent = None
    latent = part or latent or graph.canvas(models, images)
    if batch > 1:
        latent = graph.repeated(latent, batch)
    inputs = {
        "model": models.model,
        "positive": positive,
        "latent": latent,
        "seed": seed % 2**64,
        "cfg": drawing.cfg,
        "steps": drawing.steps,
        "schedule": drawing.schedule,
        "strength": drawing.strength,
    }
    if drawing.cfg > 1:
        inputs["negative"] = prompts[1]
    sampled = graph.add(Denoise.ID, inputs)
    decoded = graph.add(Decode.ID, {"vae": models.vae, "latent": sampled})
    image = graph.upscaled(graph.finished(decoded, part), models, plain, seed)
    if save:
        graph.add("SaveImage", {"images": image, "filename_prefix": PREFIX})
    read = prompts if drawing.cfg > 1 else prompts[:1]
    grown = drawing.kind == "edit" and len(images) > FIXED
    return DrawGraph(
        graph.nodes, models, read, sampled, image, graph.notes(grown, seed), grown, graph.enhanced
    )


class _Pictures(ApiBuilder):
    """The nodes of a drawing behind its loaders."""

    def __init__(self, names: Names, call: DrawCall, drawing: Drawing) -> None:
        super().__init__(names)
        self.call, self.drawing = call, drawing
        self._images: dict[Path, Ref] = {}
        self._masks: dict[Path, Ref] = {}  # of the image files: 1 = transparent
        self.enhanced: Ref | None = None

    def image(self, path: Path, title: str) -> Ref:
        """An image file: its first frame, with alpha where a pixel is transparent."""
        if path not in self._images:
            traits = self.drawing.traits[path]
            one = traits.animated and isinstance(self.names, FilePaths)
            kind = LoadFirstFrame.ID if one else "LoadImage"
            image = self.add(kind, {"image": self.names.of(INPUT, path)}, title)
            mask = Ref(image.node, 1)
            if traits.transparent:
                image = self.add("JoinImageWithAlpha", {"image": image, "alpha": mask})
            if traits.animated and not one:
                first = {"image": image, "batch_index": 0, "length": 1}
                image = self.add("ImageFromBatch", first)
            self._images[path], self._masks[path] = image, mask
        return self._images[path]

    def mask(self) -> Ref | None:
        """The mask of the call, by the channel that says what is inpainted (image_traits.py)."""
        path, channel = self.call.mask, self.drawing.mask_channel
        return None if path is None else self._mask_of(path, channel, "Mask")

    def _mask_of(self, path: Path, channel: str, title: str) -> Ref:
        paint = channel == PAINT
        inputs = {"image": self.names.of(INPUT, path), "channel": "alpha" if paint else channel}
        mask = self.add("LoadImageMask", inputs, title)
        return self.add("InvertMask", {"mask": mask}) if paint else mask

    def inpainted(self, models: ModelRefs, images: list[Ref], mask: Ref | None) -> Ref | None:
        """The latent of an image of which a part is inpainted; None where nothing is."""
        if mask is None or not images:
            return None
        inputs = {
            "vae": models.vae,
            "image": images[0],
            "mask": mask,
            "grow": 0,
            "feather": FEATHER,
            "crop": CROPS[0],
            "work_size": AUTO,
        }
        return self.add(Inpaint.ID, inputs)

    def encoded(
        self, models: ModelRefs, images: list[Ref], part: Ref | None
    ) -> tuple[tuple[Ref, Ref], Ref | None]:
        """(positive, negative), and the latent where the same node gives it."""
        drawing, named = self.drawing, {}
        if drawing.kind == "edit":
            shown = [Ref(part.node, 2), *images[1:]] if part else images
            named = {f"{GROWN}.picture_{n}": image for n, image in enumerate(shown, 1)}
        self.enhanced = self._enhanced(models, named)
        texts = {"prompt": self.enhanced or drawing.prompt, "negative": drawing.negative}
        inputs: dict[str, object] = {"text_encoder": models.text_encoder, **texts}
        kind = EncodePrompt.ID
        if drawing.kind == "edit":
            inputs |= {"model": models.model, "vae": models.vae, "work_size": AUTO, **named}
            kind = EncodeEdit.ID
        elif drawing.kind == "layers":
            area = next(iter(LAYER_AREAS))
            inputs |= {"vae": models.vae, "image": images[0], "layers": drawing.layers}
            inputs |= {"area": area}
            kind = EncodeLayers.ID
        node = self.add(kind, inputs).node
        return (Ref(node, 0), Ref(node, 1)), None if kind == EncodePrompt.ID else Ref(node, 2)

    def _enhanced(self, models: ModelRefs, pictures: dict[str, Ref]) -> Ref | None:
        """The prompt after it was enhanced; None where it is taken as it is."""
        enhance = self.drawing.enhance
        if enhance is None:
            return None
        inputs = {
            "text_encoder": models.text_encoder,
            "prompt": self.drawing.prompt,
            "enhanced": enhance.text,
            "instructions": enhance.instructions,
            "temperature": enhance.temperature,
            "seed": enhance.seed,
            **(pictures if enhance.pictures else {}),
        }
        return self.add(EnhancePrompt.ID, inputs)

    def regional(self, positive: Ref, models: ModelRefs) -> Ref:
        """The positive prompt with its regions behind it, some in each node."""
        settings, regions = self.call.region_method or RegionSettings(), self.call.region
        for at in range(0, len(regions), ROWS):
            inputs: dict[str, object] = {
                "positive": positive,
                "text_encoder": models.text_encoder,
                "method": settings.method,
                "base": settings.base,
                "start": settings.start,
                "end": settings.end,
            }
            for number, region in enumerate(regions[at : at + ROWS], 1):
                inputs |= region_row(number, region.prompt, region.box)
                if (path := region.mask) is not None:
                    channel, title = self.drawing.region_channels[path], f"Region {at + number}"
                    inputs[f"{GROWN_MASKS}.mask_{number}"] = self._mask_of(path, channel, title)
            positive = self.add(RegionalPrompts.ID, inputs)
        return positive

    def controlled(
        self, positive: Ref, models: ModelRefs, images: list[Ref], mask: Ref | None
    ) -> Ref:
        """The positive prompt with every control behind it."""
        options = self.call.control
        for n, (option, model) in enumerate(zip(options, models.controls), 1):
            title, gets = f" {n}" if len(options) > 1 else "", self.drawing.controls[n - 1]
            inputs = {
                "positive": positive,
                "control": model,
                "vae": models.vae,
                "image": self._map(option, title),
                "strength": option.strength,
                "start": option.start,
                "end": option.end,
                "fit": self.call.fit,
            }
            if gets.source:
                inputs["source"] = images[0]
            if gets.mask and mask is not None:
                inputs["mask"] = mask
            positive = self.add(ApplyControlNet.ID, inputs, title and f"Control{title}")
        return positive

    def _map(self, option: ControlOption, title: str) -> Ref:
        """The image of a control as its map."""
        image = self.image(option.path, f"Control picture{title}")
        if option.kind == MAP:
            return image
        return self.add(ControlPicture.ID, {"image": image, "type": option.kind})

    def canvas(self, models: ModelRefs, images: list[Ref]) -> Ref:
        """An image to start from; an empty canvas of a size, or of the size of the first map."""
        size = self.drawing.size
        if size is None:
            image = images[0] if images else self.image(self.call.control[0].path, "")
            inputs = {"vae": models.vae, "image": image, "work_size": AUTO}
            return self.add(ImageToLatent.ID, inputs | ({} if images else {"size_only": True}))
        width, height = size
        name = next((name for name, one in sizes().items() if one == size), CUSTOM)
        canvas = {"size": name, "width": width, "height": height, "batch_size": 1}
        return self.add(EmptyLatent.ID, canvas)

    def repeated(self, latent: Ref, batch: int) -> Ref:
        """The same canvas for every picture of a batch."""
        node = self.nodes[latent.node]
        if node["class_type"] == EmptyLatent.ID:
            node["inputs"]["batch_size"] = batch
            return latent
        return self.add("RepeatLatentBatch", {"samples": latent, "amount": batch})

    def finished(self, image: Ref, part: Ref | None) -> Ref:
        """Put back into its image, or with the alpha of the image that it takes the place of, where
        the VAE draws none."""
        if part:
            return self.add(StitchPart.ID, {"image": image, "stitch": Ref(part.node, 1)})
        replaces = self.drawing.kind in ("image", "edit") and self.drawing.size is None
        if not replaces or self.drawing.own_alpha:
            return image
        path = self.call.image[0]
        traits = self.drawing.traits[path]
        if not traits.transparent:
            return image
        mask = self._masks[path]
        if traits.animated:
            alpha = {"image": self._images[path], "channel": "alpha"}
            mask = self.add("InvertMask", {"mask": self.add("ImageToMask", alpha)})
        return self.add("JoinImageWithAlpha", {"image": image, "alpha": mask})

    def upscaled(self, image: Ref, models: ModelRefs, prompts: tuple[Ref, Ref], seed: int) -> Ref:
        """Enlarged, where the call wants that. Its prompt is the text alone: references belong to
        the canvas that was drawn.
        """
        drawing = self.drawing
        if drawing.upscale is None:
            return image
        positive, negative = prompts
        if drawing.kind == "edit":
            texts = {"prompt": self.enhanced or drawing.prompt, "negative": drawing.negative}
            inputs: dict[str, object] = {"text_encoder": models.text_encoder, **texts}
            node = self.add(EncodePrompt.ID, inputs, "Prompt of the upscale").node
            positive, negative = Ref(node, 0), Ref(node, 1)
        inputs = {
            "model": models.model,
            "vae": models.vae,
            "image": image,
            "positive": positive,
            "factor": drawing.upscale.factor,
            "strength": drawing.upscale.strength,
            "seed": seed % 2**64,
            "cfg": drawing.cfg,
            "steps": drawing.steps,
            "schedule": drawing.schedule,
            "tile": 0,
        }
        if drawing.cfg > 1:
            inputs["negative"] = negative
        return self.add(UpscalePicture.ID, inputs)

    def enlarged_only(
        self, models: ModelRefs, image: Ref, seed: int, batch: int, save: bool
    ) -> DrawGraph:
        """The graph of a picture that is enlarged as it is."""
        prompts, _ = self.encoded(models, [image], None)
        if batch > 1:
            image = self.add("RepeatImageBatch", {"image": image, "amount": batch})
        image = self.upscaled(image, models, prompts, seed)
        if save:
            self.add("SaveImage", {"images": image, "filename_prefix": PREFIX})
        read = prompts if self.drawing.cfg > 1 else prompts[:1]
        notes = self.notes(False, seed)
        return DrawGraph(self.nodes, models, read, None, image, notes, enhanced=self.enhanced)

    def notes(self, grown: bool, seed: int) -> tuple[str, ...]:
        """Folders that files belong in, and settings that no node offers."""
        notes = self.names.away()
        if grown:
            notes.append(f"more than {FIXED} pictures need a ComfyUI with growing inputs")
        if seed > EXACT:
            notes.append(f"the page rounds the seed {seed}; inkstone run does not")
        return tuple(notes)
