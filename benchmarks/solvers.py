"""Error against the exact solution over network evaluations, for every solver of hasten and of its peers.

    python benchmarks/solvers.py [--cases mixture latents emoji-sd emoji-flux] [--nfe 5 8 10 20] [--out FILE]

Cases: a mixture of 10 Gaussians in 64 dimensions; a mixture of 40 fitted to the latents of the emoji; emoji-sd with
guidance 7.5; emoji-flux. All start from the same noise and are held against the converged solution of the ODE:
root mean square error over samples, median, 95th percentile, and the share of flips (samples nearer to another mode
or reference than to their own). Whoever can be set up in several ways (times, orders, fits) chooses on noises (and
prompts) of its own; what is reported comes from others. What hasten fits, it fits on those it chooses with. On
networks the candidates of a family are compared on a few rows first, and the best of them on all; with --shortlist
only those that were the best of their family at another number of evaluations (and whatever is fitted).
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers as others
import torch
from cases import CASES, Case
from report import save
from rich.progress import track
from torch import Tensor

from hasten import sample, solvers
from hasten.core.errors import HastenError
from hasten.denoisers import DenoiserLike
from hasten.grids import schedule
from hasten.measure import bootstrap, wilson

FITTED: tuple[dict[str, Any], ...] = (
    {"name": "unipc", "order": 2}, {"name": "dpm++", "order": 2}, {"name": "deis", "order": 3, "variable": "log-rho"},
)  # fmt: skip
NFE = (4, 5, 6, 8, 10, 15, 20, 30, 50)
GRIDS: tuple[Any, ...] = (
    "leading", "logsnr", {"name": "karras", "rho": 7.0}, "trailing", {"name": "flow-shifted", "shift": 1.6},
    {"name": "flow-shifted", "shift": 0.6}, {"name": "quadratic", "power": 1.5},
    *({"name": "karras", "rho": rho} for rho in (3.0, 5.0, 10.0)),
    *({"name": "flow-shifted", "shift": shift} for shift in (0.4, 3.0, 5.0)),
    *({"name": "quadratic", "power": power} for power in (2.0, 3.0)),
)  # fmt: skip
FEW = 6  # of the grids on networks, and the first fit alone
KEPT = 2  # candidates of a family that are compared on all rows
Run = Callable[[DenoiserLike, Tensor], Tensor]


@dataclass(frozen=True)
class Candidate:
    """One way to spend the evaluations. Of each family (a package's solver) the best on "choose" is reported."""

    family: str
    label: str
    run: Run


def ours(case: Case, nfe: int) -> Iterator[Candidate]:
    """Every deterministic solver of hasten, with every grid."""
    for cls in solvers.all():
        if cls().stochastic or cls().adaptive:
            continue
        for fields in cls.search_space or [{}]:
            for grid in GRIDS[:FEW] if case.bound else GRIDS:
                made = _placed(cls(**fields), grid, case, nfe)
                if made is not None:
                    yield Candidate(f"hasten {cls.name}", f"{fields or ''} {grid}", made)


def _placed(solver: Any, grid: Any, case: Case, nfe: int) -> Run | None:
    """A run with as many steps as the evaluations allow; None where the solver cannot start here."""
    for steps in range(nfe, 0, -1):
        try:
            if len(solver.query_times(case.process, schedule(grid, case.process, steps))) <= nfe:
                return lambda denoiser, noise: sample(denoiser, noise, solver, steps, grid)
        except (HastenError, ArithmeticError, np.linalg.LinAlgError):
            return None
    return None


def fitted(case: Case, nfe: int) -> Iterator[Candidate]:
    """What hasten learns of a model: weights on given times, times, and what else can be learnt on top of those."""
    from hasten.fit import Aim, converged
    from hasten.grids import FittedGrid
    from hasten.solvers import BNS, USF, DCSolver

    every, split = case.denoisers["fit"], "screen" if case.bound else "fit"
    denoiser, noises = case.denoisers[split], case.noises[split]
    trajectory = case.trajectory = case.trajectory or converged(every, case.noises["fit"])

    def weighted(grid: Any) -> BNS:
        return BNS().fit(every, case.noises["fit"], nfe, grid, trajectory)

    for grid in GRIDS[:FEW] if case.bound else GRIDS:
        yield Candidate("hasten bns", f"{grid}", _on(weighted(grid), nfe, grid))
    aim = Aim.at(noises, case.solved[split]) if case.bound else None
    for spec in FITTED[:1] if case.bound else FITTED:
        solver = solvers.SOLVERS.build(spec)
        grid = FittedGrid().fit(denoiser, solver, noises, nfe, evaluations=case.evaluations, aim=aim)
        yield Candidate("hasten fitted grid", f"{spec}", _on(solver, nfe, grid))
        yield Candidate("hasten bns", f"grid fitted for {spec}", _on(weighted(grid), nfe, grid))
        if spec["name"] == "unipc":
            compensated = DCSolver(order=solver.order).fit(denoiser, noises[:16], nfe, grid, substeps=4)
            yield Candidate("hasten dc-solver", f"{spec}, fitted grid", _on(compensated, nfe, grid))
        if spec == FITTED[0]:
            found = USF().fit(denoiser, noises, nfe, grid, evaluations=case.evaluations, aim=aim)
            yield Candidate("hasten usf", "S3, fitted grid", _on(found, nfe, grid))


def _on(solver: Any, steps: int, grid: Any) -> Run:
    return lambda denoiser, noise: sample(denoiser, noise, solver, steps, grid)


def theirs(case: Case, nfe: int, peers: dict[str, others.Peer]) -> Iterator[Candidate]:
    for name, peer in peers.items():
        steps = next((n for n in range(nfe, 0, -1) if _evaluations(peer, case, n) <= nfe), None)
        if steps is not None:
            package, solver, *placed = name.split(" ")
            yield Candidate(f"{package} {solver}", " ".join(placed), lambda d, x, peer=peer, n=steps: peer(d, x, n))


def _evaluations(peer: others.Peer, case: Case, steps: int) -> float:
    try:
        return others.evaluations(peer, case.process, steps)
    except Exception:  # it cannot take this few steps
        return np.inf


def errors(case: Case, split: str, run: Run) -> Tensor:
    """Each sample's root mean square distance from its reference; infinite where the solver failed."""
    solved = case.solved[split]
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = run(case.denoisers[split], case.noises[split])
    except (HastenError, ArithmeticError, IndexError, AssertionError, ValueError, RuntimeError):
        made = torch.full_like(solved, torch.nan)
    case.made = made
    return (made - solved).flatten(1).square().mean(1).sqrt().double().nan_to_num(torch.inf)


def flips(case: Case, split: str, made: Tensor) -> Tensor:
    """Which samples are nearer to another mode (or reference) than their own reference is."""
    solved = case.solved[split].flatten(1).double()
    marks = solved if case.modes is None else case.modes.flatten(1).double()
    near = [torch.cdist(x.flatten(1).double().nan_to_num(1e9), marks).argmin(1) for x in (made, solved)]
    return near[0] != near[1]


def measured(case: Case, candidates: Sequence[Candidate], about: str) -> list[dict[str, Any]]:
    """One row a family: its best candidate on the noises to choose by, measured on the others."""
    families: dict[str, list[tuple[float, Candidate]]] = {}
    for one in track(candidates, about):
        families.setdefault(one.family, []).append((_size(case, "screen", one), one))
    rows = []
    for family, screened in track(families.items(), f"{about}: the best on all rows"):
        kept = sorted(screened, key=lambda pair: pair[0])[:KEPT]
        if case.noises["screen"] is not case.noises["choose"]:
            kept = sorted(((_size(case, "choose", one), one) for _, one in kept), key=lambda pair: pair[0])
        chosen_by, one = kept[0]
        off = errors(case, "report", one.run)
        if not torch.isfinite(off).all():
            rows.append({"family": family, "label": one.label.strip(), "failed": True})
            continue
        flipped = flips(case, "report", case.made)
        square = bootstrap(off.square().numpy(), "mean")
        rows.append({
            "family": family, "label": one.label.strip(), "chosen_by": chosen_by,
            "rmse": [float(np.sqrt(v)) for v in (square.value, square.low, square.high)],
            "median": _numbers(bootstrap(off.numpy(), "median")), "p95": float(off.quantile(0.95)),
            "flips": _numbers(wilson(int(flipped.sum()), len(flipped))),
        })  # fmt: skip
    return sorted(rows, key=lambda row: row.get("rmse", [np.inf])[0])


def _size(case: Case, split: str, one: Candidate) -> float:
    return float(errors(case, split, one.run).square().mean().sqrt())


def _numbers(interval: Any) -> list[float]:
    """value, low, high."""
    return [interval.value, interval.low, interval.high]


def compared(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best of hasten over the best of the others: by RMSE, which flips dominate, and by the median error."""
    sound = [row for row in rows if "rmse" in row]
    sides = [[row for row in sound if row["family"].startswith("hasten") is own] for own in (True, False)]
    if not all(sides):
        return {}
    found: dict[str, Any] = {}
    for name, size in (("rmse", lambda row: row["rmse"][0]), ("median", lambda row: row["median"][0])):
        mine, peer = (min(side, key=size) for side in sides)
        names = {"hasten": f"{mine['family']} {mine['label']}", "peer": f"{peer['family']} {peer['label']}"}
        found[name] = names | {"ratio": size(mine) / size(peer)}
    return found


def plot(report: dict[str, Any], file: Path) -> None:
    """Error over evaluations: every family a line, hasten's in colour, the best of each side on top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(report["cases"]), figsize=(5.2 * len(report["cases"]), 4.4), squeeze=False)
    for axis, (name, case) in zip(axes[0], report["cases"].items()):
        lines: dict[str, dict[int, float]] = {}
        for nfe, rows in sorted(case["nfe"].items(), key=lambda item: int(item[0])):
            for row in rows:
                if "rmse" in row:
                    lines.setdefault(row["family"], {})[int(nfe)] = row["rmse"][0]
        for own, colour, label in ((False, "0.6", "peers"), (True, "tab:blue", "hasten")):
            chosen = [line for family, line in lines.items() if family.startswith("hasten") is own]
            for line in chosen:
                axis.plot(list(line), list(line.values()), color=colour, lw=0.7, alpha=0.5)
            best = {
                n: min(line[n] for line in chosen if n in line) for n in sorted({n for line in chosen for n in line})
            }
            axis.plot(list(best), list(best.values()), color=colour, lw=2.4, marker="o", label=f"{label}, best")
        axis.set(xscale="log", yscale="log", title=name, xlabel="network evaluations", ylim=(None, 3))
        axis.set_xticks(sorted({n for line in lines.values() for n in line}), minor=False)
        axis.get_xaxis().set_major_formatter(matplotlib.ticker.ScalarFormatter())
        axis.minorticks_off()
        axis.legend(frameon=False)
    axes[0][0].set_ylabel("RMSE to the converged solution")
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--nfe", nargs="+", type=int, default=list(NFE))
    parser.add_argument("--count", type=int, help="samples to choose by, and to report on")
    parser.add_argument("--shortlist", action="store_true", help="only what was the best of its family before")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "solvers.json")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    old = json.loads(given.out.read_text()) if given.out.exists() else {"cases": {}}
    report = {
        "what": __doc__.split("\n\n")[2], "cases": old["cases"],
    }  # fmt: skip
    for name in given.cases:
        case = CASES[name](**({"count": given.count} if given.count else {})).solve()
        peers, missing = others.available(case.process)
        kept = report["cases"].setdefault(name, {"nfe": {}, "best": {}})
        kept |= {"samples": kept.get("samples", {}), "settled": case.settled, "missing": missing}
        for nfe in given.nfe:
            candidates = [*ours(case, nfe), *theirs(case, nfe, peers)]
            if given.shortlist:
                known = {(row["family"], row["label"]) for rows in kept["nfe"].values() for row in rows}
                candidates = [one for one in candidates if (one.family, one.label.strip()) in known]
            candidates += fitted(case, nfe)
            rows = measured(case, candidates, f"{name}, {nfe} evaluations, {len(candidates)} candidates")
            kept["nfe"][str(nfe)], kept["best"][str(nfe)] = rows, compared(rows)
            kept["samples"][str(nfe)] = len(case.noises["report"])
            print(name, nfe, json.dumps(kept["best"][str(nfe)]), flush=True)
            save(report, given.out)
    plot(report, given.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
