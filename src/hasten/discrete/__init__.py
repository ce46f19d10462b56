"""Absorbing discrete diffusion: tokens are masked one by one, and a network without time fills them in (RADD).

A state is (rows, length) integer tokens 0 .. V-1, and V where masked. A network answers logits (rows, length, V)
of the token at every place given the visible ones; it needs no time, so an answer stays valid until a token
changes. Source: Ou et al. 2024, arXiv 2406.03736.
"""

from hasten.discrete.exact import Joint, exact_bound
from hasten.discrete.masking import Geometric, LogLinear, Schedule
from hasten.discrete.unmasking import UNMASKERS, Euler, Generated, Ordered, TauLeaping, expected_calls, generate

__all__ = [
    "Euler",
    "Generated",
    "Geometric",
    "Joint",
    "LogLinear",
    "Ordered",
    "Schedule",
    "TauLeaping",
    "UNMASKERS",
    "exact_bound",
    "expected_calls",
    "generate",
]
