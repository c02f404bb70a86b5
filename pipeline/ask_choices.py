"""Choices of a question about a picture, without torch: widgets and options are made of them."""

FREE = "free question"
# name -> the question that it asks
CAPTIONS = {
    "short caption": "Describe the picture in one sentence.",
    "long caption": (
        "Describe the picture in detail: what it shows and where, shapes, colours, materials, "
        "light, style, and any text in it, word for word in double quotes. Say only what can be "
        "seen."
    ),
    "training caption": (
        "Write a caption with which an image model can be trained on this picture: one paragraph "
        "of plain words that names the subject, what it looks like and does, the surroundings, "
        "the light, the view and the style, and has all text of the picture word for word in "
        "double quotes. Say only what can be seen. Begin with the subject itself, not with words "
        "such as 'The picture shows'."
    ),
}
LEAST_PIXELS, MOST_PIXELS, ALL_PIXELS = 3136, 1024 * 1024, 12845056
