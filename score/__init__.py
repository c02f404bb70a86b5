"""Counts what came out of a model: words, things, colours, places, edits; with intervals.

Pure functions: sets of prompts, readers of pictures, counting, statistics, a page. The command that
draws is `headless/cli/score.py`.
"""
