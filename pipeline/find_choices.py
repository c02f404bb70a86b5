"""Choices of a search in a picture, without torch: widgets and options are made of them."""

GRABCUT, PLAIN = "grabcut", "box"
SHAPES = {
    GRABCUT: "the thing itself, cut out at its edges by OpenCV's GrabCut",
    PLAIN: "the whole box",
}
USUAL_TOKENS = 2048  # of an answer: about 60 boxes
USUAL_THING = "the main subject"
