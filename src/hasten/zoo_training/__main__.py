"""`python -m hasten.zoo_training NAME`: train a model of the zoo, for `accelerate launch` too."""

from __future__ import annotations

import argparse
from pathlib import Path

from hasten.zoo_training import train
from hasten.zoo_training.training import TRAINERS


def main() -> None:
    """Read the command line, train, and print the folder."""
    parser = argparse.ArgumentParser(prog="python -m hasten.zoo_training", description="Train a model of the zoo.")
    parser.add_argument("name", choices=sorted(TRAINERS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--names", type=int)
    parser.add_argument("--copies", type=int)
    parser.add_argument("--vae", type=Path)
    parser.add_argument("--fresh", dest="resume", action="store_false")
    parser.add_argument("--fast", action="store_true")
    print(train(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
