"""The words of the help pages, English and Chinese; build.py adds what the schemas know."""
# ruff: noqa: E501 (a Chinese character counts as two columns)

PAGES: dict[str, tuple[str, str]] = {
    "InkstoneLoadAll": (
        "The quickest start: choose *embedded* and press Run, nothing is downloaded. For the real "
        "model put a whole Hugging Face folder (with `transformer`, `text_encoder`, `vae`, "
        "`tokenizer`) into `models/diffusers`. Weights are read when a node first needs them.",
        "最快的开始方式：选择 *embedded*（内置模型）并运行，无需下载。使用正式模型时，把完整的 Hugging Face 文件夹"
        "（含 `transformer`、`text_encoder`、`vae`、`tokenizer`）放入 `models/diffusers`。权重在首次使用时才读取。",
    ),
    "InkstoneLoadDiffusionModel": (
        "The file says by its tensors what it is: bf16, fp8, int8, GGUF, SVDQuant and others need "
        "no setting. For edits choose *variant* where the file does not tell. What does not fit in "
        "memory is streamed block by block.",
        "文件的张量说明了它是什么：bf16、fp8、int8、GGUF、SVDQuant 等都不需要设置。编辑时，如果文件没有说明变体，"
        "请选择 *模型变体*。内存放不下的部分会逐块流式读取。",
    ),
    "InkstoneLoadTextEncoder": (
        "Words become conditions here. For edits the file must hold the vision tower; a GGUF file "
        "needs its mmproj file beside it.",
        "文字在这里变成条件。编辑时文件必须带视觉塔；GGUF 文件旁边需要放它的 mmproj 文件。",
    ),
    "InkstoneLoadVAE": (
        "Between pictures and latents. Qwen-Image-Layered has a VAE of its own, with alpha.",
        "在图片与 Latent 之间转换。Qwen-Image-Layered 有自己的、带透明通道的 VAE。",
    ),
    "InkstoneLoadLora": (
        "One node for each file. The file is read once; trying strengths costs nothing.",
        "每个文件用一个节点。文件只读一次，尝试不同强度没有代价。",
    ),
    "InkstoneLoraStack": (
        "Connect as many as you like; sockets grow. Look at *coverage*: 720 of 720 modules is "
        "whole, 0 is an error. A Lightning LoRA wants 4 or 8 steps and CFG 1.",
        "可连接任意多个，插口会自动增加。请看 *覆盖率*：720 / 720 个模块为完整，0 则报错。"
        "Lightning LoRA 需要 4 或 8 步和 CFG 1。",
    ),
    "InkstoneControlPicture": (
        "The map appears on the node. Canny, soft edge and line art need no weights; pose finds "
        "people or takes keypoints; depth needs a Depth-Anything file of yours. Connect the result to "
        "*Inkstone Apply ControlNet*.",
        "控制图会显示在节点上。Canny、软边缘和线稿不需要权重；姿态会寻找人物，或使用关键点；深度需要你自己的 Depth-Anything 文件。"
        "把结果接到“应用 ControlNet”。",
    ),
    "InkstoneLoadControlNet": (
        "The file itself says which kind it is, whatever its name. What was loaded, and for which "
        "base model, is in the log in one line.",
        "文件自身说明它是哪一种，与文件名无关。加载了什么、适用于哪个基础模型，日志里有一行说明。",
    ),
    "InkstoneModelInfo": (
        "Run it before a long job: it prints what will be in memory, what is streamed, and which "
        "LoRA reached how many modules.",
        "在长任务之前运行：它会打印哪些在内存中、哪些流式读取，以及每个 LoRA 覆盖了多少模块。",
    ),
    "InkstoneEncodePrompt": (
        "Write in English or Chinese. Letters that shall appear in the picture go in double "
        'quotes: a sign that says "OPEN". Equal words are not encoded twice.',
        "可用中文或英文书写。要出现在图片里的文字放在双引号里：写着“营业中”的招牌。相同的文字不会重复编码。",
    ),
    "InkstoneEncodeEdit": (
        "Say what to change and what stays. The prompt may name Picture 1, Picture 2. The result "
        "has exactly the size of Picture 1: no zoom, no shift.",
        "说明要改什么、保留什么。提示词可以称呼图 1、图 2（Picture 1、Picture 2）。结果与图 1 尺寸完全相同：不缩放、不偏移。",
    ),
    "InkstoneEncodeLayers": (
        "Takes a picture apart into layers with alpha. Describe the whole picture, hidden parts "
        "too. Behind it: *Schedule*, *Denoise*, *Decode*, *Split Layers*.",
        "把一张图片拆成带透明通道的图层。请描述整张图片，包括被遮住的部分。其后接“采样计划”、“去噪采样”、“解码”、“拆分图层”。",
    ),
    "InkstoneApplyControlNet": (
        "Put it between the prompt and *Denoise*. The map must have the size or the ratio of what "
        "is drawn; nothing is cropped unasked. Several controls in a row add up.",
        "放在提示词与“去噪采样”之间。控制图须与绘制尺寸或比例相同；不会擅自裁剪。多个控制串接时相加。",
    ),
    "InkstoneEmptyLatent": (
        "1328x1328 and its six relatives are what Qwen-Image draws best. The embedded model wants "
        "128x128.",
        "1328x1328 及另外六种尺寸是 Qwen-Image 效果最好的。内置模型使用 128x128。",
    ),
    "InkstoneImageToLatent": (
        "Start from a picture instead of an empty canvas, and set *strength* in *Schedule* to "
        "about 0.6. Any size works and comes back exactly.",
        "以图片代替空画布作为起点，并把“采样计划”的 *重绘强度* 设为约 0.6。任意尺寸都可以，并精确还原。",
    ),
    "InkstoneInpaint": (
        "Paint the mask in *Load Image* (right-click, mask editor). Draw, decode, then connect "
        "*Inkstone Stitch*: outside the mask every value stays bit by bit.",
        "在“加载图像”中绘制遮罩（右键，遮罩编辑器）。绘制、解码后接“拼回”：遮罩之外每个数值逐位不变。",
    ),
    "InkstonePadForOutpaint": (
        "Adds room at the sides that you name and gives the mask of it. Connect both to *Inkstone "
        "Inpaint*.",
        "在指定的边添加空间，并给出其遮罩。把两者都接到“局部重绘”。",
    ),
    "InkstoneSchedule": (
        "The noise levels of every step. Leave *schedule* as it is, except for Lightning models. "
        "*strength* below 1 starts from the latent's content.",
        "每一步的噪声水平。除 Lightning 模型外，保持 *调度* 不变。*重绘强度* 小于 1 时从 latent 的内容开始。",
    ),
    "InkstoneDenoise": (
        "The work itself. The bar moves with every block, a long step says how much time is left, "
        "and the preview shows all pictures of a batch. Stop answers within a block. Above CFG 1 "
        "connect *negative*.",
        "真正的绘制。进度条随每个块移动，步骤较长时会显示剩余时间，预览显示批次中的所有图片。停止在一个块之内响应。"
        "CFG 大于 1 时请连接 *负面条件*。",
    ),
    "InkstoneDecode": (
        "Latents to pictures. Where memory is short it works in strips, which are exact: no seams, "
        "no other colours.",
        "Latent 到图片。内存不足时分条进行，结果精确：没有接缝，颜色不变。",
    ),
    "InkstoneStitch": (
        "The last node of an inpaint: what was drawn goes into its place in the picture.",
        "局部重绘的最后一个节点：把绘制的部分放回图片中原来的位置。",
    ),
    "InkstoneSplitLayers": (
        "Colours and transparency of each layer, for core nodes that know no alpha.",
        "给出每个图层的颜色与透明度，供不支持透明通道的核心节点使用。",
    ),
    "InkstoneQuantise": (
        "Makes a model small enough for your card, without another program. It takes minutes to "
        "an hour; a stopped run goes on where it was.",
        "不用其他程序，把模型变小到适合你的显卡。需要几分钟到一小时；中途停止后会从停下处继续。",
    ),
    "InkstoneToModel": (
        "For graphs of core nodes: our network behind the core's KSampler, with any sampler and "
        "scheduler. Add *ModelSamplingAuraFlow* with shift 3.1 as the official graphs do.",
        "用于核心节点的工作流：我们的网络接在核心 KSampler 之后，可用任意采样器和调度器。请像官方工作流那样加上 shift 为 3.1 的 "
        "*ModelSamplingAuraFlow*。",
    ),
    "InkstoneToCLIP": (
        "For the core's text encode nodes; the template and the cut are those of Qwen-Image.",
        "用于核心的文本编码节点；模板与截断方式都是 Qwen-Image 的。",
    ),
    "InkstoneToVAE": (
        "For the core's encode and decode nodes and for other packs that want a VAE.",
        "用于核心的编码、解码节点，以及其他需要 VAE 的节点包。",
    ),
}
