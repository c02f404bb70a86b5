"""The texts of the help pages, English and Chinese; build.py adds names and tooltips."""
# ruff: noqa: E501 (a Chinese character counts as two columns)

PAGES: dict[str, tuple[str, str]] = {
    "InkstoneLoadAll": (
        "The quickest start: choose *embedded* and press Run; nothing is downloaded. For the full "
        "model, put a complete Hugging Face folder (with `transformer`, `text_encoder`, `vae`, "
        "`tokenizer`) in `models/diffusers`. Weights are loaded lazily, when a node first needs them.",
        "最快的开始方式：选择 *embedded*（内置模型）并运行，无需下载。使用完整模型时，把整个 Hugging Face 文件夹"
        "（含 `transformer`、`text_encoder`、`vae`、`tokenizer`）放入 `models/diffusers`。权重在节点首次使用时才加载。",
    ),
    "InkstoneLoadDiffusionModel": (
        "The format is detected from the tensors: bf16, fp8, int8, GGUF, SVDQuant and others need "
        "no setting. For edits, choose *variant* if the file does not name it. If the model does not "
        "fit in memory, it is streamed block by block.",
        "权重格式根据张量自动识别：bf16、fp8、int8、GGUF、SVDQuant 等都不需要设置。编辑时，如果文件未注明变体，"
        "请选择 *模型变体*。内存放不下时，模型会逐块流式读取。",
    ),
    "InkstoneLoadTextEncoder": (
        "The text encoder turns prompts into conditioning. For edits the file must contain the "
        "vision tower; a GGUF file needs its mmproj file in the same folder.",
        "文本编码器把提示词变成条件。编辑时文件必须包含视觉塔；GGUF 文件需要同一文件夹中的 mmproj 文件。",
    ),
    "InkstoneLoadVAE": (
        "The VAE converts pictures to latents and back. Qwen-Image-Layered has its own VAE, with an "
        "alpha channel.",
        "VAE 在图片与 latent 之间转换。Qwen-Image-Layered 有自己的、带透明通道的 VAE。",
    ),
    "InkstoneLoraLoader": (
        "Choose a file in the first row; the next row appears. Each row has a switch and a strength. "
        "A file is read only once, so trying other strengths costs nothing. Check *coverage*: 720 of "
        "720 modules means the whole LoRA was applied, 0 is an error. A Lightning LoRA needs 4 or 8 "
        "steps and CFG 1, which are the sampler's own settings with it.",
        "在第一行选择文件，下一行随即出现。每行有开关和强度。文件只读取一次，因此尝试不同强度没有额外开销。请查看 *覆盖率*："
        "720 / 720 个模块表示完整应用，0 则报错。Lightning LoRA 需要 4 或 8 步和 CFG 1，采样器会自动采用。",
    ),
    "InkstoneLoadLora": (
        "One node for each file. In new graphs use *Inkstone Load LoRA*, which has a row for each "
        "file.",
        "每个文件用一个节点。新的工作流请使用“加载 LoRA”，它为每个文件提供一行。",
    ),
    "InkstoneLoraStack": (
        "Connect as many LoRAs as you like; more sockets appear as you connect them. In new graphs "
        "use *Inkstone Load LoRA*.",
        "可连接任意多个 LoRA，插口会自动增加。新的工作流请使用“加载 LoRA”。",
    ),
    "InkstoneControlPicture": (
        "The control map is shown on the node. Canny, soft edge and line art need no weights; pose "
        "detects people or uses keypoints; depth is only a guess without a Depth-Anything file. Connect "
        "the result to *Inkstone Apply ControlNet*.",
        "控制图会显示在节点上。Canny、软边缘和线稿不需要权重；姿态会检测人物，或使用关键点；深度在没有 "
        "Depth-Anything 文件时只是猜测。"
        "把结果连接到“应用 ControlNet”。",
    ),
    "InkstoneLoadControlNet": (
        "The kind of ControlNet is detected from the file's content, never from its name. One line "
        "in the log says what was loaded and for which base model.",
        "ControlNet 的种类根据文件内容识别，与文件名无关。日志中有一行说明加载了什么、适用于哪个基础模型。",
    ),
    "InkstoneModelInfo": (
        "Run it before a long job. It shows which weights will be resident in memory, which are "
        "streamed, and how many modules each LoRA was applied to.",
        "在长任务之前运行。它会显示哪些权重常驻内存、哪些流式读取，以及每个 LoRA 应用到多少个模块。",
    ),
    "InkstoneEncodePrompt": (
        "Write the prompt in English or Chinese. Put text that should appear in the picture in "
        'double quotes: a sign that says "OPEN". A prompt that was already encoded is not encoded '
        "again.",
        "可用中文或英文书写提示词。要出现在图片里的文字放在双引号里：写着“营业中”的招牌。已编码过的提示词不会重复编码。",
    ),
    "InkstoneEncodeEdit": (
        "Describe what to change and what to keep. The prompt can refer to Picture 1, Picture 2. The "
        "result has exactly the size of Picture 1: no zoom, no shift.",
        "说明要修改什么、保留什么。提示词可以称呼图 1、图 2（Picture 1、Picture 2）。结果与图 1 尺寸完全相同：不缩放、不偏移。",
    ),
    "InkstoneEncodeLayers": (
        "Splits a picture into layers with alpha. Describe the whole picture, including hidden "
        "parts. Then connect *Sampler*, *Decode* and *Split Layers*.",
        "把一张图片拆分成带透明通道的图层。请描述整张图片，包括被遮住的部分。之后依次连接“采样器”、“解码”和“拆分图层”。",
    ),
    "InkstoneApplyControlNet": (
        "Connect it between the prompt and the *Sampler*. A control map of another aspect ratio than "
        "the result is cropped, stretched, padded or refused (*fit*). Several ControlNets in a row "
        "add up.",
        "连接在提示词与“采样器”之间。控制图的宽高比与结果不同时，可裁剪、拉伸、补边或报错（*适配*）。串接多个 ControlNet 时效果相加。",
    ),
    "InkstoneRegionalPrompts": (
        "Connect it between the prompt and the *Sampler*, before ControlNets. The prompt in front of it "
        "is that of the whole picture; a region's prompt says what its part shows, with the background. "
        "Write a box in pixels or percent, or connect a mask to the socket of the row's number. Regions may "
        "overlap: such pixels follow both. Leave *base* near 0.1; raise it where borders show. With the EliGen "
        "LoRA choose *eligen*. Several nodes in a row add up. For Qwen-Image; 2.1 has no regions.",
        "连接在提示词与“采样器”之间，放在 ControlNet 之前。它前面的提示词说明整张图片；区域的提示词说明该部分的内容，包括背景。"
        "方框可用像素或百分比，也可以把遮罩连接到同一编号的插口。区域可以重叠：重叠的像素同时遵循两者。"
        "*基础比例* 保持在 0.1 左右，出现边界时调高。加载了 EliGen LoRA 时请选择 *eligen*。串接多个节点时区域相加。"
        "适用于 Qwen-Image；2.1 没有区域。",
    ),
    "InkstoneEmptyLatent": (
        "*the model's own* is right for every model. Qwen-Image works best at 1328x1328 and the six "
        "other sizes of the list; the embedded model was trained at 128x128, 160x96 and 96x160. The "
        "sampler warns about sizes that are far from it.",
        "“模型自己的”尺寸适合任何模型。Qwen-Image 在 1328x1328 以及列表中另外六种尺寸下效果最好。内置模型是在 128x128、160x96 和 96x160 下训练的。尺寸相差太远时采样器会警告。",
    ),
    "InkstoneImageToLatent": (
        "Starts from a picture instead of an empty latent. Set *strength* in the *Sampler* to about "
        "0.6. Any size works, and the result has exactly that size.",
        "以图片代替空 latent 作为起点。请把“采样器”的 *重绘强度* 设为约 0.6。任意尺寸都可以，结果与其尺寸完全相同。",
    ),
    "InkstoneInpaint": (
        "Paint the mask in *Load Image* (right-click, Open in MaskEditor). Sample and decode, then "
        "connect *Inkstone Stitch*: outside the mask every pixel stays bit-identical.",
        "在“加载图像”中绘制遮罩（右键，打开遮罩编辑器）。去噪、解码后连接“拼回”：遮罩之外每个像素逐位不变。",
    ),
    "InkstonePadForOutpaint": (
        "Adds space on the sides you choose and outputs its mask. Connect both outputs to *Inkstone "
        "Inpaint*.",
        "在所选的各边添加空间，并给出其遮罩。把两个输出都连接到“局部重绘”。",
    ),
    "InkstoneSchedule": (
        "Computes the noise level of every step, for samplers that have no steps of their own: "
        "*Inkstone Sampler* needs it only for schedules that are changed on the way. Leave *schedule* unchanged, except for Lightning "
        "models. With *strength* below 1, sampling starts from the latent's content.",
        "计算每一步的噪声水平，供没有步数设置的采样器使用；“采样器”节点只在需要中途修改计划时才用到它。除 Lightning 模型外，请保持 *调度* 不变。*重绘强度* 小于 1 时，从 latent 的内容开始采样。",
    ),
    "InkstoneDenoise": (
        "The sampler. The progress bar moves with every block, a long step shows the time left, and "
        "the preview shows all pictures of a batch. The stop button works between blocks. "
        "Steps and CFG 0 are the model's own, so a new node needs only *model* and *positive*.",
        "采样器。进度条随每个块移动，步骤较长时会显示剩余时间，预览显示批次中的所有图片。停止按钮在块与块之间生效。"
        "步数和 CFG 为 0 时采用模型自己的值，因此新节点只需连接 *模型* 和 *正面条件*。",
    ),
    "InkstoneDecode": (
        "Converts latents to pictures. If memory is short it works in strips, which are exact: no "
        "seams, no colour shifts.",
        "把 latent 转换为图片。内存不足时分条进行，结果精确：没有接缝，没有色偏。",
    ),
    "InkstoneStitch": (
        "The last node of an inpaint graph: puts the result back in its place in the picture.",
        "局部重绘工作流的最后一个节点：把结果放回图片中原来的位置。",
    ),
    "InkstoneSplitLayers": (
        "Outputs the colours and the transparency of each layer, for core nodes that do not support "
        "alpha.",
        "给出每个图层的颜色与透明度，供不支持透明通道的核心节点使用。",
    ),
    "InkstoneEnhancePrompt": (
        "Connect the text encoder, and the output to the *prompt* of an encode node; for an edit connect "
        "its pictures here too. The text appears on the node while it is written. It is checked: text in "
        "quotes must come out letter for letter, none may be added, the language must be that of the "
        "prompt. A text that fails is written again with another seed; after three the prompt is used as "
        "you wrote it, and the node says why. To edit the result, copy it into *enhanced*. Saved pictures "
        "keep both texts. The file of the text encoder needs the output head: the folders of Qwen-Image "
        "and the GGUF files of Qwen2.5-VL-7B-Instruct and Qwen3-VL-8B-Instruct have it, and the embedded "
        "model, which knows only its own kind of pictures.",
        "连接文本编码器，并把输出连接到编码节点的“提示词”；编辑时在这里也连接图片。文字会在生成时显示在节点上。结果会经过检查："
        "引号中的文字必须逐字保留，不得增加，语言须与提示词相同。不合格的结果会换一个种子重写；三次之后使用你写的提示词，节点会说明原因。"
        "要修改结果，请复制到“增强后的提示词”。保存的图片会保留两段文字。文本编码器的文件须带输出头：Qwen-Image 的文件夹和 "
        "Qwen2.5-VL-7B-Instruct、Qwen3-VL-8B-Instruct 的 GGUF 文件都有；内置模型也有，但只懂它自己那类图片。",
    ),
    "InkstoneAskPicture": (
        "Connect a picture and the text encoder and press Run: the caption appears on the node while it "
        "is written, and goes out as text. For a question of your own choose *free question*. The text "
        "encoder's file needs the output head: the folders of Qwen-Image and the GGUF files of "
        "Qwen2.5-VL-7B-Instruct and Qwen3-VL-8B-Instruct (with their mmproj file) have it, and the embedded "
        "model, which knows only its own kind of pictures. Stop works at every token.",
        "连接图片和文本编码器并运行：描述会在生成时显示在节点上，并作为文本输出。要提自己的问题，请选择 *free question*。"
        "文本编码器的文件须带输出头：Qwen-Image 的文件夹和 Qwen2.5-VL-7B-Instruct、Qwen3-VL-8B-Instruct 的 GGUF 文件"
        "（连同其 mmproj 文件）都有；内置模型也有，但只懂它自己那类图片。"
        "每个词元之间都可停止。",
    ),
    "InkstoneFindInPicture": (
        "Connect a picture and the text encoder, write what to find and press Run: the node shows the "
        "boxes, numbered, with the mask in red. Connect *mask* to *Inkstone Inpaint* to change what was "
        "found, or to *Apply ControlNet*; *boxes* is JSON in the picture's own pixels. *grabcut* needs "
        "OpenCV (`pip install opencv-python-headless`), no weights; where it finds no edge the whole box "
        "is marked, and a line in the log says so. If the answer has no box, the error shows what the "
        "model wrote. The text encoder's file needs the output head, as for *Inkstone Ask Picture*.",
        "连接图片和文本编码器，写下要找什么并运行：节点会显示带编号的边框，遮罩为红色。把 *遮罩* 连接到“局部重绘”即可修改找到的东西，"
        "也可连接到“应用 ControlNet”；*边框* 是以图片自身像素为单位的 JSON。*grabcut* 需要 OpenCV"
        "（`pip install opencv-python-headless`），不需要权重；找不到边缘时会标记整个边框，并在日志中说明。"
        "如果回答中没有边框，错误信息会显示模型写了什么。文本编码器的文件须带输出头，与“询问图片”相同。",
    ),
    "InkstoneCameraAngle": (
        "Connect *prompt* to the prompt of *Inkstone Encode Edit*, and load the LoRA "
        "Qwen-Image-Edit-2511-Multiple-Angles with *Inkstone Load LoRA*. The 96 positions are those "
        "that it was trained with; other words do not work as well. The example graph *Edit 2511, novel "
        "view* has both.",
        "把 *提示词* 连接到“编码编辑指令”的提示词，并用“加载 LoRA”加载 Qwen-Image-Edit-2511-Multiple-Angles。"
        "96 个位置即其训练所用；其他写法效果较差。示例工作流 *Edit 2511, novel view* 两者都有。",
    ),
    "InkstoneUpscalePicture": (
        "Connect the models, the picture and its prompt from *Inkstone Encode Prompt*. Every tile is redrawn "
        "as a picture of its own by the same prompt, so describe what is everywhere (style, material, light) "
        "rather than one thing; with the embedded model keep *strength* at 0.1. LoRAs, Lightning and streamed "
        "models work; controls, references and masks belong to a whole canvas: draw with them first, then "
        "enlarge. Time grows with the number of tiles, memory does not.",
        "连接模型、图片，以及“编码提示词”给出的提示词。每一块都按同一提示词当作单独的图片重绘，因此请描述处处都有的内容"
        "（风格、材质、光线），而不是某一件东西；使用内置模型时，*重绘强度* 保持 0.1。LoRA、Lightning 和流式读取的模型都可用；"
        "控制、参考图和遮罩属于整个画布：请先用它们绘图，再放大。耗时随块数增加，内存不会。",
    ),
    "InkstoneReferenceCache": (
        "Put it between the model loader and *Inkstone Sampler*. Qwen-Image-2.1 reads prompt and reference "
        "images once; all steps use what it keeps, and so do new seeds. A reference of one megapixel "
        "takes 2 GB, with CFG twice. Where memory is short, *host* or *off* costs time and no quality.",
        "放在模型加载器与“采样器”之间。Qwen-Image-2.1 只读取一次提示词和参考图，所有步骤和新的种子都使用保留的结果。"
        "一百万像素的参考图占 2 GB，开启 CFG 时加倍。内存不足时选 *host* 或 *off*，只会变慢，不影响质量。",
    ),
    "InkstoneStepCache": (
        "Put it between the model loader and *Inkstone Sampler*, behind LoRAs. The console says how many block "
        "evaluations were saved. Start with the usual threshold; raise it while you like the pictures. "
        "Controls, edits, inpainting and streamed models work with it; what it keeps is in the memory plan.",
        "放在模型加载器（以及 LoRA）与“采样器”之间。控制台会写出省去了多少次块计算。先用常用阈值，只要图片满意就可以调高。"
        "可与控制、编辑、局部重绘和流式加载的模型一起使用；它保留的内容计入内存计划。",
    ),
    "InkstoneVariety": (
        "Put it between the model loader and *Inkstone Sampler*, behind LoRAs, and draw a batch: each picture has its "
        "own seed. Long prompts, few steps and distilled models make seeds look alike; noise on the words in the "
        "first steps sets them apart. If pictures leave the prompt, use less noise or fewer steps of it. No CFG in "
        "the first steps halves their time; on the small embedded model it set nothing apart, and at CFG 1 it has no "
        "effect. A third way is *Inkstone Enhance Prompt*: another seed there writes another prompt (`draw --variety "
        "rewrite` does so for each picture), of use where the prompt leaves something open. Console lines say in how "
        "many steps each acts. On the embedded model the usual noise sets seeds of a full prompt 35 % farther apart "
        "at 2.5 points of correctness; of a prompt that leaves things open, noise 58 % and rewriting 313 %.",
        "放在模型加载器（以及 LoRA）与“采样器”之间，然后画一批图片：每张图片有自己的种子。提示词长、步数少和蒸馏模型会让不同种子的图片很像；"
        "在前几步给文字加噪声可以把它们分开。如果图片偏离提示词，就减少噪声或缩短有噪声的步数。前几步不用 CFG 可使这些步的时间减半；在内置小模型上它没有让图片更不同，CFG 为 1 时无效。"
        "第三种办法是“增强提示词”：换一个种子就会写出另一个提示词（`draw --variety rewrite` 为每张图片这样做），适合没有写全的提示词。控制台会写出各在多少步中起作用。在内置小模型上，对写全的提示词，常用噪声让种子之间的差别增加 35%，正确率降低 2.5 个百分点；对没有写全的提示词，噪声增加 58%，改写增加 313%。",
    ),
    "InkstoneQuantise": (
        "Makes a model small enough for your GPU; no other program is needed. It takes from minutes "
        "to an hour; a stopped run resumes where it left off.",
        "不用其他程序，就能把模型变小到适合你的显卡。需要几分钟到一小时；中途停止后会从停下处继续。",
    ),
    "InkstoneTrainLora": (
        "Connect the loaders that you draw with, enter the folder of your pictures and press Run: the node writes a "
        "settings file to ComfyUI's output folder and shows the command to copy. Nothing is trained or read here: a "
        "training takes long, needs the memory that ComfyUI uses, and goes on after a restart. Every picture needs a "
        "caption in a `.txt` file of the same name. The command reports on the pictures first, prints the memory "
        "plan, draws the sample prompts while it trains, and resumes when it is called again. The finished LoRA is in "
        "`models/loras`: *Inkstone Load LoRA* lists it. If the command is not found, install the pack once with "
        "ComfyUI's Python: `python -m pip install custom_nodes/inkstone`. All further settings are options of the "
        "command: `inkstone train-lora --help`.",
        "连接绘图时使用的加载器，填写图片所在的文件夹并运行：节点把设置文件写到 ComfyUI 的 output 文件夹，并显示可复制的命令。"
        "这里不训练，也不读取图片：训练时间长，需要 ComfyUI 占用的内存，并且重启后可以继续。每张图片需要一个同名的 `.txt` 文件写说明。"
        "命令会先报告图片的情况、打印内存计划，训练时画出示例提示词，再次运行则从停下处继续。训练好的 LoRA 在 `models/loras` 中，“加载 LoRA”会列出它。"
        "如果找不到该命令，请用 ComfyUI 的 Python 安装一次本包：`python -m pip install custom_nodes/inkstone`。其他设置都是命令的选项："
        "`inkstone train-lora --help`。",
    ),
    "InkstoneToModel": (
        "For graphs of core nodes: KSampler runs our network, with any sampler and scheduler. Add "
        "*ModelSamplingAuraFlow* with shift 3.1, as the official workflows do.",
        "用于核心节点的工作流：KSampler 运行我们的网络，可用任意采样器和调度器。请像官方工作流那样加上 shift 为 3.1 的 "
        "*ModelSamplingAuraFlow*。",
    ),
    "InkstoneToCLIP": (
        "For the core's text encode nodes. It uses Qwen-Image's prompt template, as the core does.",
        "用于核心的文本编码节点。使用 Qwen-Image 的提示词模板，与核心一致。",
    ),
    "InkstoneToVAE": (
        "For the core's encode and decode nodes, and for other packs that need a VAE.",
        "用于核心的编码、解码节点，以及其他需要 VAE 的节点包。",
    ),
}
