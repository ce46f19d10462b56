"""What a guidance is: which branches of the batch run, and how they are combined."""

from __future__ import annotations

from hasten.acceleration import Acceleration
from hasten.catalog import Family


class Guidance(Acceleration):
    """A change to how a pipeline guides the network towards its conditioning."""


GUIDANCES: Family[Guidance] = Family("guidance", Guidance)
