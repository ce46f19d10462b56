"""DBCache of the package cache-dit, as a row of a recipe (`pip install hasten[compare]`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from hasten.caches.borrowed import TEACACHE, Borrowed, at_least, stack
from hasten.caches.hooked import Generations, Store, adopt, needs_no_residuals
from hasten.caching.cache import CACHES
from hasten.core.console import quiet
from hasten.core.errors import HastenError, positive_int
from hasten.core.registry import Span
from hasten.runtime.run import Run


@CACHES.add
@dataclass(frozen=True)
class DBCache(Borrowed):
    """cache-dit's DBCache: skip the middle blocks while what the first ones add hardly changes.

    It decides for all images of a request at once.

    front: how many first blocks always run, at least 1.
    back: how many last blocks always run, at least 0.
    threshold: of the mean change relative to the last computed step, at least 0, which is off.
    warmup: how many first steps are computed.
    most: how many steps may be skipped in a generation; None is no limit.
    in_a_row: how many steps may be skipped one after the other; None is no limit.
    order: of a Taylor series that forecasts what is skipped; 0 holds it.

    Source: cache-dit 1.5, after ParaAttention and Liu et al. 2024 (TeaCache).
    """

    front: int = 8
    back: int = 0
    threshold: float = 0.08
    warmup: int = 8
    most: int | None = None
    in_a_row: int | None = None
    order: int = 0

    name = "cache-dit"
    search_space: ClassVar[Mapping[str, Any]] = {"threshold": Span(0.03, 0.5, log=True), "order": Span(0, 1)}
    paper = TEACACHE
    off: ClassVar[Mapping[str, Any]] = {"threshold": 0.0}
    beside = ()
    pools = True

    def __post_init__(self) -> None:
        positive_int("front", self.front)
        for field in ("back", "threshold", "warmup", "order"):
            at_least(field, getattr(self, field), 0)
        for field in ("most", "in_a_row"):
            if getattr(self, field) is not None:
                positive_int(field, getattr(self, field))

    def check(self, network: nn.Module) -> None:
        try:
            with quiet(logging.INFO):
                from cache_dit import BlockAdapterRegister
        except ImportError:
            raise HastenError("cache-dit: is not installed; pip install 'hasten[compare]'") from None
        if not BlockAdapterRegister.is_supported(network):
            raise self.refuse(network, "is none of the transformers it knows", "see cache_dit.supported_pipelines()")
        blocks = len(stack(network))
        if self.threshold and self.front + self.back > blocks:
            raise self.refuse(
                network, f"has {blocks} blocks", f"give front and back of together at most {blocks}, not {self._ends}"
            )

    @property
    def _ends(self) -> str:
        return f"{self.front} + {self.back}"

    def put(self, network: nn.Module, run: Run) -> None:
        import cache_dit

        series = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=self.order) if self.order else None
        config = cache_dit.DBCacheConfig(
            Fn_compute_blocks=self.front, Bn_compute_blocks=self.back, residual_diff_threshold=self.threshold,
            max_warmup_steps=self.warmup, max_cached_steps=-1 if self.most is None else self.most,
            max_continuous_cached_steps=-1 if self.in_a_row is None else self.in_a_row, enable_separate_cfg=False,
        )  # fmt: skip
        try:
            with quiet(logging.INFO):
                cache_dit.enable_cache(network, cache_config=config, calibrator_config=series)
        except AssertionError as error:  # what its list names is not all that it takes
            raise self.refuse(
                network, f"is refused by cache-dit itself ({error})", "use one of hasten's own"
            ) from error

    def attach(self, network: nn.Module, run: Run) -> None:
        if not self.threshold:
            return
        contexts = _Contexts()
        Generations(run, contexts).watch(network, lambda call: needs_no_residuals(self.name, call))
        adopt(network, lambda view: self.put(view, run), lambda changed: run.act(self.name, changed))
        contexts.find(network)


class _Contexts(Store):
    """cache-dit's contexts on a view, a set of its own for each generation."""

    def __init__(self) -> None:
        self._manager: Any = None
        self._settings: dict[str, Any] = {}
        self._kept: dict[str, dict[str, Any]] = {}

    def find(self, network: Any) -> None:
        """Look for the contexts of a view."""
        self._manager = network._context_manager
        self._settings = {name: self._manager.get_context(name)._init_kwargs for name in network._context_names}

    def opened(self) -> str | None:
        return None

    @contextmanager
    def inside(self, generation: str) -> Iterator[None]:
        live = self._manager._cached_context_manager
        live.clear()
        if generation in self._kept:
            live.update(self._kept[generation])
        else:
            with quiet(logging.INFO):
                self._kept[generation] = {n: self._manager.new_context(**s) for n, s in self._settings.items()}
        try:
            yield
        finally:
            self._manager._current_context = None

    def keep(self, generations: Set[str]) -> None:
        for name in set(self._kept) - generations:
            del self._kept[name]
