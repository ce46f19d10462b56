"""Every pipeline class of diffusers, tiny: `build(name)` makes one with random weights and what to call it with.

Which components a pipeline wants is read from its `__init__`, which arguments it takes from its `__call__`; tables
say how small a component of a class is (`UNETS`, `CODECS`, ... in files of their own), what an argument is
(`common`), and what is special about a pipeline (`RULES`, by patterns of names, the later ones win). Nothing is
downloaded. `LEFT_OUT` says why a class is not built.
"""

from __future__ import annotations

from every.arguments import many
from every.building import arguments, build, call, names, settings, signature, tensor
from every.left_out import LEFT_OUT

__all__ = ["LEFT_OUT", "arguments", "build", "call", "many", "names", "settings", "signature", "tensor"]
