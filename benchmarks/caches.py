"""What caches are worth: speed-up against drift, beside peers and beside simply taking fewer, better steps.

    python benchmarks/caches.py [--models emoji-sd emoji-flux] [--images 12] [--rounds 3] [--out FILE]

Every row is a recipe (or a peer package) on the same model, prompts and seeds: its speed-up over the default (whole
pipeline runs, interleaved in one process, with a 95 % interval; by CPU time with --threads 1), the speed-up that
multiply-adds promise, and PSNR, SSIM, EfficientNet distance and latent RMSE, each against the default's image and
against the converged reference.
Groups: "paper" (a cache of a paper on the default's own scheduler and steps), "composed" (other combinations of site,
gate and forecaster, there too), "steps" (no cache: the best solvers and grids, also fitted ones, with fewer steps),
"both" (a cache on top of such), "peer" (other packages). Writes JSON, a plot and a grid of pictures.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import contenders
import torch
from report import save
from rich.progress import track

import hasten
from hasten.core.errors import HastenError
from hasten.evaluate.problem import Pictures, Problem, Runner
from hasten.evaluate.references import References
from hasten.evaluate.samples import choose, known_prompts, to_fit
from hasten.evaluate.scores import compared
from hasten.measure import count_calls, macs, timed_ratio
from hasten.recipe import Recipe
from hasten.search.fitter import SPLIT, Fitter

METRICS = ("psnr", "ssim", "effnet", "latent_rmse")
SPEEDS = (1.5, 2.0, 3.0)  # at which sides are compared
LATEST = Path(__file__).parent / "results" / "caches.json"


@dataclass
class Contender:
    """One way to run the model. running: a context with a Runner."""

    label: str
    group: str
    running: Callable[[], AbstractContextManager[Runner]]
    pictures: Pictures | None = None


def problem_of(model: str, images: int) -> Problem:
    pipe = hasten.load(model)
    pipe.set_progress_bar_config(disable=True)
    samples = choose(known_prompts(pipe), {"confirm": images, "search": images})
    return Problem(pipe, {"confirm": samples["confirm"], SPLIT: to_fit(samples["search"], 16)}, batch=8)


def field(problem: Problem, only: tuple[str, ...] = ("",)) -> tuple[list[Contender], dict[str, str], set[str]]:
    """Everybody who takes part, why others do not, and all labels there are. only: what labels begin with."""
    fitted, found, missing, labels = Fitter(problem), [], {}, set()
    for label, group, spec in contenders.recipes(problem):
        labels.add(label)
        if not label.startswith(only):
            continue
        try:
            recipe = fitted(Recipe(**spec))
            with problem.running(recipe):
                pass
        except (HastenError, ImportError) as error:
            missing[label] = f"{type(error).__name__}: {error}"
            continue
        found.append(Contender(label, group, lambda recipe=recipe: problem.running(recipe)))
    for label, start in contenders.packages(problem).items():
        labels.add(label)
        if not label.startswith(only):
            continue
        try:
            with start():
                pass
        except Exception as error:  # whatever a package that does not work raises
            missing[label] = f"{type(error).__name__}: {error}"
            continue
        found.append(Contender(label, "peer", start))
    return found, missing, labels


def draw(problem: Problem, one: Contender) -> Pictures:
    samples = problem.samples["confirm"]
    with one.running() as run:
        return functools.reduce(Pictures.joined, map(run, samples.batches(problem.batch)))


@contextmanager
def timing(problem: Problem, contenders: list[Contender]) -> Iterator[dict[str, Callable[[], Any]]]:
    """Runs of one image by label. Peers that patch shared modules are applied for each run alone."""
    one = problem.single

    def alone(contender: Contender) -> Callable[[], Any]:
        def run() -> None:
            with contender.running() as runner:
                runner(one)

        return run

    with ExitStack() as stack:
        runs: dict[str, Callable[[], Any]] = {}
        for contender in contenders:
            if contender.group == "peer":
                runs[contender.label] = alone(contender)
            else:
                runner = stack.enter_context(contender.running())
                runs[contender.label] = lambda runner=runner: runner(one)
        yield runs


def measured(
    problem: Problem, field: list[Contender], missing: dict[str, str], rounds: int, about: str
) -> dict[str, Any]:
    """The rows. Who fails (it diverges) joins those that are missing, with the reason."""
    references = References(problem)
    default, reference = references.default("confirm"), references.reference("confirm")
    whole = problem.cost(None)
    kept = []
    for one in track(field, f"{about}: pictures"):
        try:
            one.pictures = draw(problem, one)
            marks = {"default": compared(one.pictures, default), "reference": compared(one.pictures, reference)}
        except HastenError as error:
            missing[one.label] = str(error)
            continue
        with one.running() as run, count_calls(run.network) as seen:
            cost = macs(lambda run=run: run(problem.single))
        kept.append((one, marks, seen.calls, cost))
    with timing(problem, [one for one, *_ in kept]) as runs, problem.running(None) as plain:
        speeds = timed_ratio(lambda: plain(problem.single), runs, repeats=rounds, progress=True, clock=clock())
    rows = []
    for one, marks, calls, cost in kept:
        speed, promised = speeds[one.label], whole.macs / cost
        rows.append({
            "label": one.label, "group": one.group, "speed": [speed.value, speed.low, speed.high], "busy": speed.busy,
            "macs": promised, "efficiency": speed.value / promised, "calls": calls,
            **{f"to {name}": figures(mark) for name, mark in marks.items()},
        })  # fmt: skip
    return {
        "images": len(default.images), "steps": problem.steps, "unsettled": references.convergence.unsettled,
        "default to reference": figures(compared(default, reference)),
        "rows": sorted(rows, key=lambda row: row["speed"][0]), "at speed": at_speeds(rows),
    }  # fmt: skip


def clock() -> Callable[[], float]:
    """CPU seconds where torch has one thread, so that other processes do not matter; else those of the wall."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def figures(mark: Any) -> dict[str, Any]:
    """Medians with intervals, and the share of flips."""
    found = {m: mark.estimate(m, "median") for m in METRICS}
    return {m: [e.value, e.low, e.high] for m, e in found.items()} | {"flips": float(mark.flipped.mean())}


def front(rows: list[dict[str, Any]], mark: str) -> list[tuple[float, float, str]]:
    """(speed, PSNR, label) of the rows that no other beats in both, slowest first."""
    best: list[tuple[float, float, str]] = []
    for row in sorted(rows, key=lambda row: -row["speed"][0]):
        psnr = row[mark]["psnr"][0]
        if not best or psnr > best[-1][1]:
            best.append((row["speed"][0], psnr, row["label"]))
    return best[::-1]


def at_speeds(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The best PSNR of each side among the rows that are at least so fast."""
    sides = {
        "hasten caches": ("paper", "composed"), "hasten, any": ("paper", "composed", "both", "steps"),
        "peers": ("peer",), "steps alone": ("steps",),
    }  # fmt: skip
    found: dict[str, Any] = {}
    for mark in ("to default", "to reference"):
        for speed in SPEEDS:
            line = {}
            for side, groups in sides.items():
                fast = [r for r in rows if r["group"] in groups and r["speed"][0] >= speed]
                if fast:
                    best = max(fast, key=lambda row: row[mark]["psnr"][0])
                    line[side] = {"psnr": best[mark]["psnr"][0], "label": best["label"], "speed": best["speed"][0]}
            found[f"{mark}, {speed:g}x"] = line
    return found


def plot(report: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    colours = {"paper": "tab:blue", "composed": "tab:cyan", "both": "tab:green", "steps": "black", "peer": "tab:orange"}
    names = {
        "paper": "caches of papers", "composed": "other combinations", "both": "cache on a fitted solver",
        "steps": "fewer, better steps", "peer": "other packages",
    }  # fmt: skip
    models = report["models"]
    figure, axes = plt.subplots(2, len(models), figsize=(6.4 * len(models), 9.2), squeeze=False)
    for column, (model, found) in enumerate(models.items()):
        for line, mark in enumerate(("to reference", "to default")):
            axis = axes[line][column]
            for group, colour in colours.items():
                rows = [row for row in found["rows"] if row["group"] == group]
                speed, psnr = [r["speed"][0] for r in rows], [r[mark]["psnr"][0] for r in rows]
                axis.scatter(speed, psnr, s=16, color=colour, alpha=0.7, label=names[group])
                best = front(rows, mark)
                axis.plot([b[0] for b in best], [b[1] for b in best], color=colour, lw=1.4, alpha=0.8)
            if mark == "to reference":
                axis.axhline(found["default to reference"]["psnr"][0], color="0.5", ls=":", label="the default itself")
            axis.set(xscale="log", title=f"{model}, {mark.removeprefix('to ')}", ylabel=f"PSNR {mark} (dB, median)")
            axis.set_xticks([1, 1.5, 2, 3, 4, 6, 8, 10], labels=["1", "1.5", "2", "3", "4", "6", "8", "10"])
            axis.minorticks_off()
            axis.set_xlabel("times faster than the default")
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def pictures(problem: Problem, field: list[Contender], rows: list[dict[str, Any]], file: Path, count: int = 6) -> None:
    """Columns: the default, and of each group the row of the highest PSNR to the default among those over 2x."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    references = References(problem)
    columns = {"default": references.default("confirm").images}
    by_label = {one.label: one.pictures for one in field if one.pictures is not None}
    for group in ("paper", "composed", "peer", "steps", "both"):
        fast = [row for row in rows if row["group"] == group and row["speed"][0] >= 2]
        if fast:
            best = max(fast, key=lambda row: row["to default"]["psnr"][0])
            title = f"{best['label']}\n{best['speed'][0]:.1f}x, {best['to default']['psnr'][0]:.1f} dB"
            columns[title] = by_label[best["label"]].images
    count = min(count, len(references.default("confirm").images))
    figure, axes = plt.subplots(count, len(columns), figsize=(2.3 * len(columns), 2.1 * count), squeeze=False)
    for column, (title, images) in enumerate(columns.items()):
        for row in range(count):
            axes[row][column].imshow(images[row].permute(1, 2, 0).clamp(0, 1).numpy())
            axes[row][column].axis("off")
        axes[0][column].set_title(title, fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["emoji-sd", "emoji-flux"])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--only", nargs="+", default=[], help="labels that begin so; other rows stay as they are in the file"
    )
    parser.add_argument("--out", type=Path, default=LATEST)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    old = json.loads(given.out.read_text()) if given.out.exists() else {"models": {}}
    report: dict[str, Any] = {"what": __doc__.split("\n\n")[2], "models": old["models"]}
    for model in given.models:
        problem = problem_of(model, given.images)
        chosen, missing, labels = field(problem, tuple(given.only) or ("",))
        found = measured(problem, chosen, missing, given.rounds, model)
        if given.only:  # the others stay as they were measured before
            before = report["models"].get(model, {"rows": [], "missing": {}})
            others = labels - {row["label"] for row in found["rows"]} - missing.keys()
            found["rows"] += [row for row in before["rows"] if row["label"] in others]
            found["rows"].sort(key=lambda row: row["speed"][0])
            found["at speed"] = at_speeds(found["rows"])
            missing |= {label: why for label, why in before["missing"].items() if label in others}
        report["models"][model] = found | {"missing": missing, "threads": torch.get_num_threads()}
        save(report, given.out)
        plot(report, given.out.with_suffix(".png"))
        if not given.only:
            pictures(problem, chosen, found["rows"], given.out.with_name(f"caches-{model}.png"))
        for name, line in found["at speed"].items():
            print(name, {side: f"{x['psnr']:.1f} dB {x['label']}" for side, x in line.items()}, flush=True)
        cached = [row for row in found["rows"] if row["group"] in ("paper", "composed")]
        for row in sorted(cached, key=lambda row: row["efficiency"])[:3]:
            print(f"least speed-up over that by MACs: {row['efficiency']:.2f} ({row['label']})")


if __name__ == "__main__":
    main()
