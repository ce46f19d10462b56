"""`python -m hasten.zoo NAME`: train a model of the zoo."""

from __future__ import annotations

import argparse
from pathlib import Path

from hasten.zoo_training.training import TRAINERS, Plan


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m hasten.zoo", description="Train a model of the zoo.")
    parser.add_argument("name", choices=sorted(TRAINERS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--names", type=int)
    parser.add_argument("--copies", type=int)
    parser.add_argument("--vae", type=Path)
    parser.add_argument("--fresh", dest="resume", action="store_false")
    parser.add_argument("--fast", action="store_true")
    options = vars(parser.parse_args())
    name = options.pop("name")
    options["out"] = options["out"] or Path("runs") / name
    print(TRAINERS[name](Plan(**options)))


if __name__ == "__main__":
    main()
