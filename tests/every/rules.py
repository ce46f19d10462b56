"""What is special about pipelines, by patterns of class names, separated by spaces; later rules win.

A rule is a table of tables. `parts`: by component, {} for one as the tables have it, {field: value} for another config,
{"of": class} for another class, None, or what makes it. `call`: arguments. `size`: pixels of a side. `after`: functions
of the pipeline when it is made. `patch`: functions of diffusers that lay out a megapixel, and what they are to answer.
"""

from __future__ import annotations

from typing import Any

from every.rules_images import IMAGES
from every.rules_others import OTHERS
from every.rules_stable_diffusion import STABLE_DIFFUSION
from every.rules_videos import VIDEOS

RULES: list[tuple[str, dict[str, Any]]] = [
    ("*", {"parts": {"scheduler": {}}}), *STABLE_DIFFUSION, *IMAGES, *VIDEOS, *OTHERS,
]  # fmt: skip
