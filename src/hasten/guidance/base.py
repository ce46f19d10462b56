"""What a guidance is: which branches of the batch run, and how they are combined."""

from __future__ import annotations

from torch import nn

from hasten.core.errors import UnsupportedModel
from hasten.core.registry import Registry
from hasten.runtime.acceleration import Acceleration, Phase
from hasten.runtime.anatomy import needs_plain_rows


class GuidanceMethod(Acceleration):
    """A change to how a pipeline guides the network towards its conditioning. Listed in `GUIDANCES`."""

    phase = Phase.GUIDANCE
    tells = True


GUIDANCES: Registry[GuidanceMethod] = Registry("guidance", GuidanceMethod)


def needs_branches(name: str, network: nn.Module) -> None:
    """Raise UnsupportedModel if this network has its guidance distilled into it.

    name: of the guidance method, for the message.
    network: what is to be guided.
    """
    needs_plain_rows(network)
    if getattr(getattr(network, "config", None), "guidance_embeds", False):
        raise UnsupportedModel(
            f"guidance: {type(network).__name__} is guidance-distilled and has no unconditional branch to leave "
            f'out; remove "{name}" or use a model with classifier-free guidance'
        )
