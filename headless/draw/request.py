"""A draw call, and every check that needs no model: its files exist, its options go together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import CallError, InkstoneError
from ...files.images import glance
from ...files.paths import check_given, check_output, kind_of
from ...pipeline.devices import check_device
from ...sampling.geometry import FITS, TOKEN, check_canvas
from ...sampling.region_choices import EXAMPLE, RegionOption, RegionSettings
from ...sampling.region_choices import MOST as MOST_REGIONS
from ...sampling.step_cache_choices import StepCache
from ...sampling.variety_choices import REWRITE, VarietyOption, variety_of
from .control_option import ControlOption

LEAST_STRENGTH = 0.001  # of a drawing
MOST_IMAGES = 16  # pictures of an edit: what the node has sockets for
MOST_COPIES = 64  # pictures of a batch that starts from a picture: what Repeat Latent Batch takes


@dataclass(frozen=True)
class DrawCall:
    """The options of a drawing; None = the model's own preset."""

    prompt: str
    out: Path | None = None
    model: Path | None = None
    text_encoder: Path | None = None
    vae: Path | None = None
    lora: Sequence[tuple[Path, float]] = ()
    size: tuple[int, int] | None = None
    steps: int | None = None
    cfg: float | None = None
    schedule: str | None = None
    negative: str | None = None
    seed: int = 0
    batch: int = 1
    dtype: str | None = None
    memory: int | None = None
    device: str | None = None
    save_latent: Path | None = None
    fast: bool = False
    image: Sequence[Path] = ()
    mask: Path | None = None
    strength: float | None = None
    layers: int | None = None
    variant: str | None = None
    control: Sequence[ControlOption] = ()
    control_model: Sequence[Path] = ()
    control_fit: str | None = None
    reference_cache: str | None = None
    cache: StepCache | None = None
    region: Sequence[RegionOption] = ()
    region_method: RegionSettings | None = None
    variety: Sequence[VarietyOption] = ()
    enhance: bool = False
    instructions: Path | None = None
    upscale: float | None = None
    upscale_strength: float | None = None

    @property
    def rewrite(self) -> float:
        """The temperature at which each picture's prompt is rewritten; 0 = it is not."""
        return max((one.amount for one in self.variety if one.method == REWRITE), default=0.0)

    @property
    def fit(self) -> str:
        """What is done with control pictures of another aspect ratio than the result."""
        return self.control_fit or FITS[0]

    @property
    def region_masks(self) -> list[Path]:
        """The files of masks of regions."""
        return [region.mask for region in self.region if region.mask is not None]

    @property
    def pictures(self) -> list[Path]:
        """All files of pictures that it reads."""
        files = [*self.image, *([self.mask] if self.mask else [])]
        return files + [control.path for control in self.control] + self.region_masks

    @property
    def models_key(self) -> Hashable:
        """Equal where two calls load the same models in the same way."""
        files = (self.model, self.text_encoder, self.vae)
        return (*files, self.dtype, self.device, self.memory, self.variant)


def without_own_size(call: DrawCall, canvas: bool = False) -> DrawCall:
    """The call without a size that is that of Picture 1 itself, where no canvas can have it: then
    it says nothing. canvas: also where one can, and the size would say that the edit is drawn in
    it; programs that know no canvas send a picture's size too.
    """
    if call.size is None or not call.image or kind_of(call.image[0]) != "a file":
        return call
    edits = call.mask is None and call.strength is None  # else there is no other size
    if edits and not canvas and not any(side % TOKEN for side in call.size):
        return call
    try:
        own = glance(call.image[0]).size
    except InkstoneError:  # the drawing says what is wrong with it
        return call
    return replace(call, size=None) if own == call.size else call


def size_before_upscale(
    call: DrawCall, of: Callable[[Path], tuple[int, int]], own: Callable[[], tuple[int, int]]
) -> tuple[int, int]:
    """The size of what is drawn, which --upscale then enlarges: as named, else that of Picture 1 or
    of the first map, else the model's own. of: the size of a file; own: that of the model.
    """
    if call.size is not None:
        return call.size
    files = [*call.image[:1], *(control.path for control in call.control[:1])]
    return of(files[0]) if files else own()


def check_call(call: DrawCall, partly: bool = False) -> None:
    """Raises CallError where a file is not there or options do not go together. partly: a plan,
    which single files are enough for.
    """
    named = (("--model", call.model), ("--text-encoder", call.text_encoder), ("--vae", call.vae))
    for name, path in named:
        if path is not None:
            check_given(path, name)
    for path, _ in call.lora:
        _check_lora(path)
    _check_size(call)
    _check_images(call)
    _check_controls(call)
    _check_enhance(call)
    _check_regions(call)
    _check_variety(call)
    _check_upscale(call)
    check_device(call.device)
    for path in (call.out, call.save_latent):
        if path is not None:
            check_output(path)
    if not partly:
        _check_parts(call)


def _check_lora(path: Path) -> None:
    """A LoRA is one file: a folder of peft or diffusers may hold several."""
    if kind_of(path) == "a folder":
        names = sorted(file.name for file in path.glob("*.safetensors"))
        files = f"one of its files: {', '.join(names[:5])}" if names else "a .safetensors file"
        raise CallError(f"--lora {path} is a folder, expected a file. Name {files}.")
    if kind_of(path) != "a file":
        raise CallError(f"--lora {path}: no such file. Check the path (expected F or F:STRENGTH).")


def _check_parts(call: DrawCall) -> None:
    """A single file needs the parts named that it has not itself."""
    parts = {"text_encoder": call.text_encoder, "vae": call.vae}
    absent = [role for role, path in parts.items() if path is None]
    absent = [f"--{role.replace('_', '-')}" for role in absent if role not in parts_held(call)]
    if absent:
        raise CallError(
            f"{call.model} is a single file, so {' and '.join(absent)} must be given too. "
            "Or give --model a whole model folder, or a checkpoint with all three in one file."
        )


def parts_held(call: DrawCall) -> frozenset[str]:
    """What --model has beside the diffusion model: "text_encoder" and "vae" of a folder, of a file
    those that are in it.
    """
    from ...loaders.arch.identify import BESIDE, parts_beside

    path = model_folder(call)
    given = call.text_encoder is not None and call.vae is not None
    return parts_beside(path) if path.is_file() and not given else frozenset(BESIDE)


def _check_regions(call: DrawCall) -> None:
    for path in call.region_masks:
        check_given(path, "--region", kinds=("picture file",))
    if call.region_method is not None and not call.region:
        raise CallError(
            "--region-method says how regions act, but there is none. Add --region "
            f"PROMPT:x,y,width,height, for example --region '{EXAMPLE}'."
        )
    if len(call.region) > MOST_REGIONS:
        raise CallError(
            f"{len(call.region)} --region: expected at most {MOST_REGIONS}. Put some into one "
            "prompt."
        )


def _check_size(call: DrawCall) -> None:
    """Models of other steps check it once more (decide.py)."""
    if call.size is not None:
        try:
            check_canvas(*call.size)
        except InkstoneError as error:
            raise CallError(f"--size: {error}") from None


def _check_images(call: DrawCall) -> None:
    for name, path in [("--image", p) for p in call.image] + [("--mask", call.mask)]:
        if path is not None:
            check_given(path, name, kinds=("picture file",))
    for name in ("mask", "strength", "layers"):
        alone = name == "mask" and call.control  # a control takes it
        if getattr(call, name) is not None and not call.image and not alone:
            raise CallError(f"--{name} works on a picture: give it with --image F.")
    for name in ("mask", "strength", "layers"):
        if call.image and call.size is not None and getattr(call, name) is not None:
            raise CallError(
                f"--size and --{name} do not go together: with --{name} the result is the picture "
                "itself in its own size. Leave --size out, or resize the picture first."
            )
    if len(call.image) > MOST_IMAGES:
        raise CallError(f"{len(call.image)} --image: expected at most {MOST_IMAGES}.")
    if call.image and call.size is None and call.batch > MOST_COPIES:
        raise CallError(
            f"--batch {call.batch} with --image: expected at most {MOST_COPIES}. Draw the rest "
            "with another --seed."
        )


def _check_enhance(call: DrawCall) -> None:
    if call.instructions is not None:
        if not call.enhance and not call.rewrite:
            raise CallError(
                "--instructions is for --enhance and --variety rewrite: add one of them, or leave "
                "it out."
            )
        check_given(call.instructions, "--instructions", kinds=("file",))
    option = "--enhance" if call.enhance else "--variety rewrite"
    if (call.enhance or call.rewrite) and not call.prompt.strip():
        raise CallError(f"{option}: the prompt is empty. Write what is to be drawn or changed.")


def _check_variety(call: DrawCall) -> None:
    try:
        variety_of(call.variety)
    except InkstoneError as error:
        raise CallError(f"--variety: {error}") from None
    if call.enhance and call.rewrite:
        raise CallError(
            "--enhance and --variety rewrite both rewrite the prompt: once for all pictures, and "
            "for each picture another way. Keep one of them."
        )


def _check_upscale(call: DrawCall) -> None:
    """--upscale follows the drawing; with --strength 0 nothing is drawn before it."""
    whole = call.upscale is not None and call.strength == 0
    if call.strength is not None and call.strength < LEAST_STRENGTH and not whole:
        raise CallError(
            f"--strength {call.strength:g} draws nothing: expected {LEAST_STRENGTH} to 1 (0.6 is "
            "usual), or 0 with --upscale 2, which enlarges the picture as it is."
        )
    if call.upscale is None:
        if call.upscale_strength is not None:
            raise CallError(
                "--upscale-strength is for --upscale: add --upscale 2, or leave it out."
            )
        return
    if call.save_latent is not None:
        raise CallError(
            "--save-latent and --upscale do not go together: the latents are those before the "
            "picture is enlarged. Leave one of them out."
        )
    if call.strength == 0:
        for name in ("mask", "control", "region"):
            if getattr(call, name):
                raise CallError(
                    f"--{name} and --strength 0 do not go together: nothing is drawn, the picture "
                    f"is only enlarged. Leave --{name} out, or raise the strength."
                )
        if len(call.image) > 1:
            raise CallError(
                f"{len(call.image)} --image with --strength 0: expected the one picture to enlarge."
            )


def _check_controls(call: DrawCall) -> None:
    for option in call.control:
        check_given(option.path, "--control", kinds=("picture file",))
    for path in call.control_model:
        check_given(path, "--control-model")
    controls, models = len(call.control), len(control_files(call))
    if call.control_fit is not None and not controls:
        raise CallError(
            "--control-fit says how control pictures fit the result, but there is none. Add "
            "--control TYPE:PICTURE, or leave it out."
        )
    if controls and not models:
        raise CallError(
            "--control needs the file of a control: give --control-model F, or a whole model "
            "folder that has one in controlnet/."
        )
    if call.control_model and not controls:
        raise CallError("--control-model needs a picture: give --control TYPE:PICTURE.")
    if models > 1 and models != controls:
        raise CallError(
            f"{models} --control-model for {controls} --control: give one for all, or one for each."
        )


def model_folder(call: DrawCall) -> Path:
    """The model's file or folder; the embedded model where none is named."""
    from ...loaders.models.load import EMBEDDED_FOLDER

    return call.model or EMBEDDED_FOLDER


def control_files(call: DrawCall) -> list[Path]:
    """The files of --control-model; else what is in the model's own folder."""
    if call.control_model or not call.control:
        return list(call.control_model)
    own = model_folder(call) / "controlnet"
    return [own] if kind_of(own) == "a folder" else []


def control_file_of_each(call: DrawCall) -> list[Path]:
    """The file of each control: one may serve all."""
    paths = control_files(call)
    return paths * len(call.control) if len(paths) == 1 else paths
