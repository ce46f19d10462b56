"""Start providers: where a run begins other than at unit noise at the noisiest time. Listed in `STARTS`.

times = schedule("karras", process, 18)
state, _ = GaussianTeleport().fit(data)(process, noise, times[6])
x = sample(denoiser, state, solver=Heun(), grid=times[6:])      # the first six steps cost nothing
"""
# ruff: noqa: I001 - imported in the order in which methods are listed

from hasten.starts.base import STARTS, Start
from hasten.starts.boundary import OptimalBoundary
from hasten.starts.gaussian import GaussianTeleport, OneMoreStep, one_more_step
from hasten.starts.dpm_ot import DPMOT
from hasten.starts.student_t import StudentT

__all__ = [
    "DPMOT", "GaussianTeleport", "OneMoreStep", "OptimalBoundary", "STARTS", "Start", "StudentT", "one_more_step",
]  # fmt: skip
