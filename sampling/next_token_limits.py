"""Limits and defaults of an answer, without torch: options and widgets are made of them."""

MOST_TOKENS = 32768  # of prompt and answer: the length that the model was trained for
USUAL_TOKENS = 512
USUAL_PENALTY = 1.05  # the publisher's for Qwen2.5-VL
