"""What people type into the page's search for nodes, and the node of ours that they need.

The words are those of ComfyUI's core, ComfyUI-GGUF, controlnet_aux, Acly's inpaint nodes, rgthree,
Impact, Efficiency and nunchaku, and of their class names.
"""

from __future__ import annotations

from collections.abc import Iterable

SEARCHES = {
    # loaders
    "load checkpoint": "InkstoneLoadAll",
    "checkpoint loader": "InkstoneLoadAll",
    "CheckpointLoaderSimple": "InkstoneLoadAll",
    "efficient loader": "InkstoneLoadAll",
    "unet loader": "InkstoneLoadDiffusionModel",
    "load diffusion model": "InkstoneLoadDiffusionModel",
    "UNETLoader": "InkstoneLoadDiffusionModel",
    "unet gguf": "InkstoneLoadDiffusionModel",
    "unet loader gguf": "InkstoneLoadDiffusionModel",
    "gguf": "InkstoneLoadDiffusionModel",
    "nunchaku": "InkstoneLoadDiffusionModel",
    "clip loader": "InkstoneLoadTextEncoder",
    "load clip": "InkstoneLoadTextEncoder",
    "clip gguf": "InkstoneLoadTextEncoder",
    "dual clip": "InkstoneLoadTextEncoder",
    "vae loader": "InkstoneLoadVAE",
    "load vae": "InkstoneLoadVAE",
    "lora loader": "InkstoneLoraLoader",
    "load lora": "InkstoneLoraLoader",
    "lora loader model only": "InkstoneLoraLoader",
    "lora stack": "InkstoneLoraLoader",
    "power lora loader": "InkstoneLoraLoader",
    "load controlnet model": "InkstoneLoadControlNet",
    "controlnet loader": "InkstoneLoadControlNet",
    "union controlnet": "InkstoneLoadControlNet",
    "model patch loader": "InkstoneLoadControlNet",
    # step caches
    "teacache": "InkstoneStepCache",
    "fbcache": "InkstoneStepCache",
    "easycache": "InkstoneStepCache",
    "first block cache": "InkstoneStepCache",
    # regions
    "eligen": "InkstoneRegionalPrompts",
    "regional prompt": "InkstoneRegionalPrompts",
    "attention couple": "InkstoneRegionalPrompts",
    "conditioning set area": "InkstoneRegionalPrompts",
    "conditioning set mask": "InkstoneRegionalPrompts",
    # variety
    "seed variance": "InkstoneVariety",
    "variety": "InkstoneVariety",
    "diversity": "InkstoneVariety",
    # prompts
    "clip text encode": "InkstoneEncodePrompt",
    "negative prompt": "InkstoneEncodePrompt",
    "text encode qwen image edit": "InkstoneEncodeEdit",
    "text encode qwen image edit plus": "InkstoneEncodeEdit",
    "reference latent": "InkstoneEncodeEdit",
    "kontext": "InkstoneEncodeEdit",
    "layered": "InkstoneEncodeLayers",
    "image caption": "InkstoneAskPicture",
    "qwen vl": "InkstoneAskPicture",
    # control
    "controlnet apply": "InkstoneApplyControlNet",
    "apply controlnet": "InkstoneApplyControlNet",
    "canny": "InkstoneControlPicture",
    "dwpose": "InkstoneControlPicture",
    "openpose": "InkstoneControlPicture",
    "depth anything": "InkstoneControlPicture",
    "hed": "InkstoneControlPicture",
    "lineart": "InkstoneControlPicture",
    "aux preprocessor": "InkstoneControlPicture",
    # latents and pictures
    "empty latent": "InkstoneEmptyLatent",
    "sd3 latent": "InkstoneEmptyLatent",
    "EmptySD3LatentImage": "InkstoneEmptyLatent",
    "aspect ratio": "InkstoneEmptyLatent",
    "vae encode": "InkstoneImageToLatent",
    "img2img": "InkstoneImageToLatent",
    "inpaint": "InkstoneInpaint",
    "inpaint crop": "InkstoneInpaint",
    "inpaint crop and stitch": "InkstoneInpaint",
    "vae encode for inpainting": "InkstoneInpaint",
    "set latent noise mask": "InkstoneInpaint",
    "inpaint stitch": "InkstoneStitch",
    "image composite masked": "InkstoneStitch",
    "outpaint": "InkstonePadForOutpaint",
    "pad image": "InkstonePadForOutpaint",
    "rgba": "InkstoneSplitLayers",
    "split alpha": "InkstoneSplitLayers",
    "ultimate sd upscale": "InkstoneUpscalePicture",
    "upscale": "InkstoneUpscalePicture",
    "tiled diffusion": "InkstoneUpscalePicture",
    "hires fix": "InkstoneUpscalePicture",
    # sampling
    "ksampler": "InkstoneDenoise",
    "ksampler advanced": "InkstoneDenoise",
    "ksampler efficient": "InkstoneDenoise",
    "sampler custom": "InkstoneDenoise",
    "scheduler": "InkstoneSchedule",
    "sigmas": "InkstoneSchedule",
    "model sampling auraflow": "InkstoneSchedule",
    "vae decode": "InkstoneDecode",
    "vae decode tiled": "InkstoneDecode",
    # tools
    "prompt enhancer": "InkstoneEnhancePrompt",
    "magic prompt": "InkstoneEnhancePrompt",
    "caption": "InkstoneAskPicture",
    "vqa": "InkstoneAskPicture",
    "multiple angles": "InkstoneCameraAngle",
    "grounding dino": "InkstoneFindInPicture",
    "segment anything": "InkstoneFindInPicture",
    "detect": "InkstoneFindInPicture",
    "model info": "InkstoneModelInfo",
    "vram": "InkstoneModelInfo",
    "quantize": "InkstoneQuantise",
    "convert gguf": "InkstoneQuantise",
    "train lora": "InkstoneTrainLora",
    "lora training": "InkstoneTrainLora",
    "dreambooth": "InkstoneTrainLora",
    "fine tune": "InkstoneTrainLora",
}
# The page of ComfyUI 0.3.64 looks in class names and titles only, and so finds these.
BY_NAME = (
    "apply controlnet",
    "controlnet apply",
    "empty latent",
    "inpaint",
    "ksampler",
    "load diffusion model",
    "load lora",
    "load vae",
    "lora loader",
    "model info",
    "outpaint",
    "quantize",
    "scheduler",
    "train lora",
)
FIRST = 3  # of our nodes that a search lists
# The page weighs where in a text a word begins, and gives up after about this many letters.
REACH = 30
PACK = "inkstone "


def typed(searches: Iterable[str] = tuple(SEARCHES)) -> list[tuple[str, str]]:
    """(what is typed, the node), with and without the pack's name in front."""
    named = [PACK + words for words in searches if (PACK + words).rindex(" ") < REACH]
    return [(words, SEARCHES[words.removeprefix(PACK)]) for words in (*searches, *named)]
