"""The instructions of prompt enhancement and its numbers, without torch. The wording is our own."""

LONGEST = 1024  # tokens of an answer, where the model takes longer prompts
TRIES = 3  # answers that are asked for before the original prompt is kept
USUAL_TEMPERATURE = 0.7
TOP_P, TOP_K = 0.8, 20  # the publisher's for Qwen2.5
SEEN_PIXELS = 512 * 512  # of a picture: what it shows matters here, not its fine detail
MOST_BYTES = 1 << 20  # of a file of instructions

DRAWING, EDITING = "drawing", "editing"
# (what the prompt is for, whether it is Chinese) -> what the language model is asked to do;
# {} in those for edits: the names of the first two pictures
INSTRUCTIONS = {
    (DRAWING, False): (
        "You prepare prompts for a model that makes pictures. Rewrite the prompt below so that "
        "somebody who has nothing but your words could paint what its author means. Keep every "
        "subject, number, colour, name, place and style that the prompt states and contradict none "
        "of them. What it leaves open you decide and describe as something that can be seen: the "
        "surroundings, where things are in the picture, materials, light, mood, distance and angle "
        "of the view. Say what kind of picture it is, such as a photograph, an oil painting or a "
        "poster. Where writing is to appear, say on what, where, in which colour and kind of "
        "letters. Write one paragraph of at most 120 words: no list, no heading, no explanation, "
        "no praise of the picture's quality."
    ),
    (EDITING, False): (
        "You prepare instructions for a model that edits pictures. Look at what is shown and "
        "rewrite the instruction below so that it can be understood in one way only. Name what is "
        "changed by how it looks and where it is, say what it becomes, and end with what stays as "
        "it is. For something that is added, say its place, size and look so that it fits the "
        "light and the style of the scene. A person keeps face, hair and build unless the "
        "instruction says otherwise. Add no change of your own. Several pictures are called {}, {} "
        "and so on, in their order. Write at most 60 words as plain sentences: no list, no "
        "heading, no explanation."
    ),
    (DRAWING, True): (
        "你为一个绘图模型准备提示词。请改写下面的提示词，"
        "让只看到你的文字的人也能画出作者想要的画面。"
        "保留提示词中写明的每个主体、数量、颜色、名称、地点和风格，不得与之矛盾。"
        "没有写明的部分由你决定，并写成看得见的内容："
        "环境、各物在画面中的位置、材质、光线、气氛、视角的远近和角度。"
        "说明画面的类型，例如照片、油画或海报。如果画面中要出现文字，"
        "请写明文字在什么上面、什么位置、什么颜色和字体。"
        "写成一段，不超过 200 字：不分条，不加标题，不作解释，不夸赞画质。"
    ),
    (EDITING, True): (
        "你为一个图片编辑模型准备指令。请看图片，把下面的指令改写得只有一种理解方式。"
        "用外观和位置指明要改的东西，说明改成什么，最后说明哪些保持不变。"
        "如果要添加东西，请写明它的位置、大小和样子，使它与场景的光线和风格相合。"
        "除非指令另有要求，人物的面容、发型和体型保持不变。不要自行增加别的改动。"
        "有多张图片时按顺序称为{}、{}等。用平实的句子写，不超过 100 字：不分条，"
        "不加标题，不作解释。"
    ),
}
