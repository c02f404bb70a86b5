"""`inkstone train`: the recipe of the embedded model."""

from __future__ import annotations

import argparse

from ...errors import CallError
from ..arg_types import Commands, between, command, file_path


def add(commands: Commands) -> None:
    """The options."""
    p = command(
        commands,
        "train",
        "train the embedded model; the same command resumes after a stop",
        "inkstone train --out my-model",
    )
    p.add_argument(
        "--out",
        type=file_path,
        required=True,
        metavar="FOLDER",
        help="model folder to write; checkpoints go to FOLDER/checkpoints",
    )
    p.add_argument(
        "--start",
        type=file_path,
        metavar="MODEL",
        help="start from a trained model folder: trains what comes after drawing, keeps its VAE",
    )
    p.add_argument(
        "--only",
        choices=("control", "answers"),
        metavar="STAGE",
        help="with --start: train (or score) only this stage, control or answers, and keep the "
        "rest",
    )
    p.add_argument(
        "--seed",
        type=between(0, 2**31, int),
        metavar="N",
        help="seed of weights and data (default: the shipped model's)",
    )
    p.add_argument(
        "--score", action="store_true", help="only score the model in FOLDER on unseen prompts"
    )
    p.add_argument(
        "--prompts",
        type=between(1, 10000, int),
        default=200,
        metavar="N",
        help="number of unseen prompts to score (default 200)",
    )
    p.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Train and score; print the scores."""
    from ...training import answer_scores, control_scores, edit_scores, evaluate, recipe

    seed = recipe.SEED if args.seed is None else args.seed
    if args.start is not None and not (args.start / "transformer").is_dir():
        raise CallError(f"--start {args.start}: expected a model folder, such as embedded/model.")
    if args.only and args.start is None and not args.score:
        raise CallError(f"--only {args.only} needs --start MODEL, the model to train it for.")
    if args.only and not args.score:
        only = {"control": recipe.train_only_control, "answers": recipe.train_only_answers}
        only[args.only](args.start, args.out, seed)
    elif not args.score:
        recipe.train(args.out / "checkpoints", args.out, seed, args.start)
    if not args.only:
        print(evaluate.report(args.out, args.prompts))
        print(edit_scores.report(args.out, args.prompts))
    if args.only != "answers":
        print(control_scores.report(args.out, max(1, args.prompts // 4)))
    if args.only != "control":
        print(answer_scores.report(args.out, args.prompts))
    return 0
