"""Settings with which a method does something in the few steps of tests, where without arguments it would not yet."""

from __future__ import annotations

from typing import Any

WORKING: dict[str, dict[str, Any]] = {
    "interval": {"low": 0.4, "high": 6.0},
    "reuse": {"interval": 3},
    "reuse-frequencies": {"below": None},
    "diffusers-first-block": {"threshold": 100.0},
    "diffusers-magcache": {"ratios": [1.0, 1.1, 0.9], "threshold": 1.0, "retain": 0.0},
    "diffusers-pab": {"low": -1.0, "high": 1001.0},
    "diffusers-fastercache": {"attention_below": 1001.0, "unconditional_below": 1001.0},
    "diffusers-taylorseer": {"interval": 3, "warmup": 1},
    "cache-dit": {"front": 1, "threshold": 100.0, "warmup": 1},
    "first-block": {"threshold": 5.0},  # random networks change a lot in four steps
    "feature-inheritance": {"interval": 3, "last": False},  # these two would skip where others skip more
    "taylorseer": {"interval": 2},
    "fora": {"interval": 4},
    "sada": {"acc_range": (0.0, 1.0), "tail": 0, "lagrange_step": 0.25, "lagrange_int": 3},
}
