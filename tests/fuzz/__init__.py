"""Fuzzing of every parser that reads a stranger's bytes: targets, seeds, mutants, crashes found.

`scripts/fuzz` runs the targets under atheris, coverage-guided; the suite replays seeds and crashes
and some seeded mutants without it.
"""
