"""The README's picture: the same prompts and noises by the default, by a tuned recipe, and converged.

    python benchmarks/picture.py [--model emoji-sd] [--recipe tuned/emoji-sd] [--columns 8]

--recipe: a folder that `hasten tune` wrote. The prompts are those that it confirmed with, from the first on, with seeds
that nothing was chosen on. Writes docs/default-and-tuned.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import hasten
from hasten.evaluate.problem import Problem
from hasten.evaluate.references import References
from hasten.evaluate.samples import choose, known_prompts
from hasten.recipe import Recipe

FILE = Path(__file__).parent.parent / "docs" / "default-and-tuned.png"
SEED = 1000


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-sd")
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--columns", type=int, default=8)
    given = parser.parse_args()
    folder = given.recipe or Path("tuned") / given.model
    front = json.loads((folder / "front.json").read_text())
    speed = next(one for one in front["front"] if one["name"] == front["chosen"])["confirmed"]["speed"]["value"]
    pipe = hasten.load(given.model)
    samples = choose(known_prompts(pipe), {"confirm": given.columns}, SEED)
    problem = Problem(pipe, samples, batch=given.columns)
    references = References(problem)
    rows = {
        f"default\n{problem.steps} steps": references.default("confirm"),
        f"tuned\n{speed:.1f}x faster": problem.draw(Recipe.of(folder), samples["confirm"]),
        "converged": references.reference("confirm"),
    }
    figure, axes = plt.subplots(len(rows), given.columns, figsize=(1.36 * given.columns + 1, 1.4 * len(rows) + 0.2))
    for line, (title, pictures) in zip(axes, rows.items()):
        for axis, image in zip(line, pictures.images):
            axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy())
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9, labelpad=8)
    for axis, prompt in zip(axes[-1], samples["confirm"].prompts):
        axis.set_xlabel(prompt[:20], fontsize=7)
    figure.tight_layout(pad=0.3)
    figure.savefig(FILE, dpi=110)
    print(f"written to {FILE}")


if __name__ == "__main__":
    main()
