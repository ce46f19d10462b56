"""Tune a model that ships with hasten for a minute, and draw with the recipe that was found."""

import argparse

import hasten

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--model", default="emoji-flux")
options.add_argument("--minutes", type=float, default=1.0)
chosen = options.parse_args()

pipe = hasten.load(chosen.model)
result = hasten.tune(pipe, budget="1.0x", minutes=chosen.minutes, samples=(8, 16), finalists=3, out="tuned")
print(result.summary)

with hasten.accelerate(pipe, "tuned") as fast:
    fast("noto red apple", seed=0).images[0].save("apple.png")
print("see tuned/report.html and apple.png" + ("" if result.best else "; no recipe is sure to keep the budget"))
