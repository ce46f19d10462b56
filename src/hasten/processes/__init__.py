"""What noise does to data: alpha and sigma as functions of time, in float64, without any network.

A state at time t is `x_t = alpha(t) x_0 + sigma(t) eps`. Time 0 is clean data in every process
(sigma = 0, lam = +inf); time runs up to `t_max`, where sampling starts. `lam = log(alpha / sigma)`.
"""

from hasten.processes.base import Array, Process
from hasten.processes.betas import snr_shifted, table_betas, zero_terminal
from hasten.processes.configs import (
    class_of,
    described,
    dynamic_process,
    ends_on_data,
    from_config,
    table_of,
    understood,
)
from hasten.processes.electric import PFGMPlusPlus
from hasten.processes.gaussian import (
    Angular,
    Cosine,
    RectifiedFlow,
    VarianceExploding,
    VariancePreserving,
)
from hasten.processes.mean_reverting import MeanReverting
from hasten.processes.one_sided import OneSided
from hasten.processes.trig import TrigFlow

__all__ = [
    "Angular",
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
    "class_of",
    "described",
    "dynamic_process",
    "ends_on_data",
    "from_config",
    "snr_shifted",
    "table_betas",
    "table_of",
    "understood",
    "zero_terminal",
]
