"""Recipes that a search begins with, as parameters: they did well on other models."""

from __future__ import annotations

from typing import Any

_KARRAS = {"grid": "karras", "karras.rho": 6.0}
_SHIFTED = {"grid": "flow-shifted", "flow-shifted.shift": 0.6}
_BENT = {"grid": "bent", "bent.slope": 0.0, "bent.curve": 0.0, "bent.twist": 0.0, "bent.rest": 1.0}
_BNS = {"solver": "bns order=4"}
STARTS: tuple[dict[str, Any], ...] = (
    _BNS | _KARRAS | {"calls": 10},
    _BNS | _SHIFTED | {"calls": 6},
    _BNS | _KARRAS | {"calls": 8},
    _BNS | _BENT | {"calls": 9},
    _BNS | _KARRAS | {"calls": 12, "karras.rho": 5.0},
    _BNS | _SHIFTED | {"calls": 8},
    _BNS | _KARRAS | {"calls": 10, "guidance": "reuse", "reuse.interval": 2},
    _BNS | _BENT | {"calls": 12},
    {"solver": "unipc order=2", "calls": 14} | _KARRAS,
    _BNS | _SHIFTED | {"calls": 5},
    _BNS | _KARRAS | {"calls": 15, "karras.rho": 5.0},
    _BNS | _KARRAS | {"calls": 12, "cache": "deepcache", "deepcache.interval": 2, "deepcache.branch": 3},
    _BNS | _KARRAS | {"calls": 10, "guidance": "interval", "interval.low": 0.08, "interval.high": 15.0},
    _BNS | _SHIFTED | {"calls": 10, "cache": "first-block", "first-block.threshold": 0.05},
    {"solver": "dpm++ order=2", "calls": 15} | _KARRAS,
    {"solver": "unipc order=2", "calls": 14, "grid": "own"},
)  # fmt: skip
