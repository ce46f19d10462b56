"""What noise does to data: alpha and sigma as functions of time, in float64, without any network.

A state at time t is `x_t = alpha(t) x_0 + sigma(t) eps`. Time 0 is clean data in every process
(sigma = 0, lam = +inf); time runs up to `t_max`, where sampling starts. `lam = log(alpha / sigma)`.
"""

from hasten.processes.base import Array, Process
from hasten.processes.electric import PFGMPlusPlus
from hasten.processes.gaussian import (
    Cosine,
    RectifiedFlow,
    VarianceExploding,
    VariancePreserving,
    dynamic_process,
    from_config,
    table_betas,
    zero_terminal,
)
from hasten.processes.mean_reverting import MeanReverting
from hasten.processes.one_sided import OneSided
from hasten.processes.trig import TrigFlow

__all__ = [
    "Array",
    "Cosine",
    "MeanReverting",
    "OneSided",
    "PFGMPlusPlus",
    "Process",
    "RectifiedFlow",
    "TrigFlow",
    "VarianceExploding",
    "VariancePreserving",
    "dynamic_process",
    "from_config",
    "table_betas",
    "zero_terminal",
]
