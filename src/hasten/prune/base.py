"""What a pruning is."""

from __future__ import annotations

from hasten.core.registry import Registry
from hasten.runtime.acceleration import Acceleration, Phase


class Pruner(Acceleration):
    """A change to which parts of the network exist. Listed in `PRUNERS`."""

    phase = Phase.PRUNE


PRUNERS: Registry[Pruner] = Registry("prune", Pruner)
