"""A diffusers scheduler that hosts any solver: `step` sends the prediction in and hands the next state out."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from hasten.bridge.layout import Layout
from hasten.core.errors import HastenError, one_of, unknown
from hasten.grids import ENDS, GRIDS, GridLike, resolve
from hasten.predictions import reading_of
from hasten.processes import VarianceExploding, VariancePreserving, from_config
from hasten.runtime.run import Run
from hasten.solvers import SOLVERS, DPMSolverPP, Solver
from hasten.solvers.base import Walk

Generators = torch.Generator | list[torch.Generator] | None
FLOW_SCHEDULERS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")


@dataclass
class SolverSchedulerOutput(BaseOutput):
    """What `step` returns.

    prev_sample: the next state.
    pred_original_sample: the data prediction of the step just made.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None


class SolverScheduler(SchedulerMixin, ConfigMixin):
    """Any solver as a scheduler of any diffusers pipeline.

    Make one with `SolverScheduler.from_config(pipe.scheduler.config, solver=..., grid=..., end="data")`. The noise
    schedule and the kind of prediction come from that config, and are kept in this one's, from which a diffusers
    scheduler can be made back.

    solver: an instance, name or mapping; DPM-Solver++ 2M if None.
    grid: a name, mapping, Grid or explicit times; None visits the times the original scheduler would.
    end: "data" or "min" (see `hasten.grids.schedule`).
    generator: an attribute; the noise of stochastic solvers comes from it where a pipeline hands none to `step`.
    run: the `hasten.runtime.run.Run` that caches and guidance read.

    Raises HastenError for unknown names and impossible fields.
    """

    _compatibles: ClassVar[list[str]] = [*(e.name for e in KarrasDiffusionSchedulers), *FLOW_SCHEDULERS]
    order = 1

    def __init__(
        self, solver: Solver | str | Mapping[str, Any] | None = None, grid: GridLike | None = None,
        end: str = "data", **source: Any,
    ) -> None:  # fmt: skip
        one_of("end", end, ENDS)
        self.solver: Solver = DPMSolverPP() if solver is None else SOLVERS.build(solver)
        if self.solver.adaptive:
            raise HastenError(
                f"solver: {self.solver.name!r} chooses its times as it goes, and a pipeline lays them out beforehand; "
                "use hasten.sample, or choose another solver"
            )
        self.grid = None if grid is None else resolve(grid)
        self.end = end
        described = None if self.grid is None else GRIDS.describe(self.grid)
        source = {"num_train_timesteps": 1000} | source
        self.register_to_config(**source, solver=SOLVERS.describe(self.solver), grid=described, end=end)
        if source.get("invert_sigmas"):
            raise HastenError("invert_sigmas: True is not supported; this model counts its noise levels backwards")
        self.process = self._resting_process = from_config(source)
        self._reading = reading_of(self.process, source)
        self.run = Run(self.process, self._reading)
        self.order = self.solver.evaluations
        self.init_noise_sigma = self.process.start_scale
        self.num_inference_steps: int | None = None
        self.generator: Generators = None
        if isinstance(self.process, VariancePreserving):
            self.alphas_cumprod = torch.tensor(self.process.alphas_cumprod, dtype=torch.float32)
        self.timesteps = torch.arange(int(source["num_train_timesteps"]) - 1, -1, -1)
        self._layout: Layout | None = None
        self._position = 0
        self._reset()

    @classmethod
    def from_config(cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler from the config of any diffusers scheduler (or of this one); kwargs replace its fields.

        Raises HastenError for fields that neither this class nor the config knows.
        """
        if not isinstance(config, Mapping):
            raise HastenError(f"config: {config!r} is not a scheduler config; give one such as pipe.scheduler.config")
        settings = _defaults(config.get("_class_name")) | dict(config)
        for key in kwargs:
            if key not in settings and key not in ("solver", "grid", "end"):
                raise unknown("SolverScheduler", key, [*settings, "solver", "grid", "end"])
        public = {key: value for key, value in (settings | kwargs).items() if not key.startswith("_")}
        scheduler = cls(**public)
        if "_use_default_values" in config:  # lets a scheduler made back from this config use its own defaults
            scheduler.register_to_config(_use_default_values=list(config["_use_default_values"]))
        return (scheduler, {}) if return_unused_kwargs else scheduler

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None, sigmas: Sequence[float] | None = None, mu: float | None = None,
    ) -> None:  # fmt: skip
        """Lay out a run. With timesteps and sigmas, flow models step along sigmas and show the network timesteps.

        num_inference_steps: steps, each of `order` network calls.
        device: where `timesteps` is put.
        timesteps: the numbers the network is shown at the start of each step.
        sigmas: for flow models noise levels in (0, 1] before the shift, else sigma / alpha.
        mu: the shift of models that shift by picture size.

        Raises HastenError for contradictory or impossible values, and then changes nothing.
        """
        layout = Layout.of(
            self.config, self._resting_process, self.solver, self.grid, self.end, num_inference_steps, timesteps,
            sigmas, mu,
        )  # fmt: skip
        self._layout = layout
        self.process = self.run.process = layout.process
        self._reading = self.run.reading = replace(self._reading, process=layout.process)
        self.num_inference_steps = layout.steps
        self.timesteps, self.sigmas = layout.timesteps(device), layout.sigmas()
        self._reset()
        self.run.begin(layout.steps)
        self._follow_from(0)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at this query of the run rather than the first: image-to-image starts midway, without a history."""
        if self._layout is not None:
            self._follow_from(begin_index)
        self._begin_index = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The state as the network wants it: as it is, unless the model is an EDM."""
        layout = self._layout
        if self._walk is None and self._begin_index is None and layout is not None and timestep is not None:
            self._follow_from(layout.index_of(timestep, self.timesteps))
        if not isinstance(self.process, VarianceExploding):
            return sample
        if layout is None:
            raise HastenError("scale_model_input: no run was laid out; call set_timesteps first")
        index = self._position if self._step_index is None else self._step_index
        sigma, sigma_data = layout.levels[index][1], self._reading.sigma_data or 0.0
        return sample / (sigma**2 + sigma_data**2) ** 0.5

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Generators = None,
        return_dict: bool = True, **extras: Any,
    ) -> SolverSchedulerOutput | tuple[Tensor]:  # fmt: skip
        """Take the network's answer for the current query and return the state of the next one.

        model_output: the answer, shaped like `sample`.
        sample: the state, (rows, ...); half precision is stepped in float32, and the result has its dtype.
        timestep: one of `timesteps`, only looked at in the first step of a run.
        generator: of the noise of stochastic solvers, one or one an image.
        return_dict: return a `SolverSchedulerOutput`, else a tuple of the next state.
        extras: arguments of other schedulers (eta, s_noise, ...), which are ignored.

        Raises HastenError outside of a run.
        """
        layout = self._layout
        if layout is None:
            raise HastenError("step: no run was laid out; call set_timesteps first")
        if self._walk is None:
            self._start(layout, timestep, sample, extras)
        index = self._step_index
        if index is None or index >= len(layout.levels):
            raise HastenError("step: this run is over; call set_timesteps to begin another")
        self._generator = self.generator if generator is None else generator
        half = sample.dtype in (torch.float16, torch.bfloat16)
        x = sample.float() if half else sample
        prediction = self._reading.at(x, model_output.to(x.dtype), *layout.levels[index])
        self._step_index = index + 1
        self.run.count(len(x))
        self.run.answer(prediction)
        try:
            query = self._walk.send(prediction)  # type: ignore[union-attr]
            self.run.follow(query)
            state = self.run.edited(self.run, query.x)
        except StopIteration as done:
            state = done.value
            _check_finite(state)
        if half:
            state = state.to(sample.dtype)
        if not return_dict:
            return (state,)
        return SolverSchedulerOutput(state, prediction.data.to(sample.dtype))

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha * data + sigma * noise at these network numbers, one a row (or one for all)."""
        alpha, sigma = self._at(timesteps, original_samples)
        return alpha * original_samples + sigma * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise`, as flow pipelines call it."""
        return self.add_noise(sample, noise, timestep)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha * noise - sigma * data: what a v-prediction network is trained to answer."""
        alpha, sigma = self._at(timesteps, sample)
        return alpha * noise - sigma * sample

    @property
    def step_index(self) -> int | None:
        """Which query of the run is next; None before the first step."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Where the pipeline said that the run begins."""
        return self._begin_index

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_walk": None, "_last_noise": None}  # copies begin at the next step, without a history

    def _reset(self) -> None:
        self._walk: Walk | None = None
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._last_noise: tuple[int, Tensor] | None = None

    def _follow_from(self, index: int) -> None:
        """Make query `index` the first one of the run."""
        assert self._layout is not None
        tail = self._layout.tail(self.solver, index)
        self._position = index
        self.run.follow(tail[0])
        self.run.times = tuple(query.t for query in tail) if self.solver.evaluations == 1 else ()

    def _start(self, layout: Layout, timestep: Any, sample: Tensor, extras: Mapping[str, Any]) -> None:
        if extras.get("per_token_timesteps") is not None:
            raise HastenError("per_token_timesteps: not supported; every token of a state has the same time here")
        if self._begin_index is None:
            self._follow_from(layout.index_of(timestep, self.timesteps))
        self._step_index = self._position
        half = sample.dtype in (torch.float16, torch.bfloat16)
        state = sample.float() if half else sample
        self._noise_like = state
        times = layout.times[layout.queries[self._position].step :]
        self._walk = self.solver.walk(self.process, times, state, self._noise)
        next(self._walk)

    def _noise(self, step: int) -> Tensor:
        if self._last_noise is None or self._last_noise[0] != step:
            like = self._noise_like
            drawn = randn_tensor(like.shape, generator=self._generator, device=like.device, dtype=like.dtype)
            self._last_noise = (step, drawn)
        return self._last_noise[1]

    def _at(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        numbers = np.atleast_1d(torch.as_tensor(timesteps).detach().cpu().double().numpy())
        times = self.process.from_network_time(numbers)
        shape = (-1,) + (1,) * (like.ndim - 1)
        levels = (self.process.alpha(times), self.process.sigma(times))
        alpha, sigma = (torch.tensor(level, dtype=like.dtype, device=like.device).reshape(shape) for level in levels)
        return alpha, sigma


def _defaults(class_name: Any) -> dict[str, Any]:
    """What a diffusers scheduler takes for fields that its config leaves out."""
    import diffusers

    origin = getattr(diffusers, str(class_name), None)
    if not (isinstance(origin, type) and issubclass(origin, SchedulerMixin)):
        return {}
    parameters = inspect.signature(origin.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _check_finite(state: Tensor) -> None:
    """Once a run: raise if every image is lost, warn if some are."""
    if math.isfinite(float(state.sum())):
        return
    good = torch.isfinite(state).flatten(1).all(1)
    if bool(good.all()):  # only the sum was too large
        return
    hint = "half precision often overflows so: try dtype bfloat16 or float32"
    if not bool(good.any()):
        raise HastenError(f"step: the network's answers led to values that are not finite; {hint}")
    rows = (~good).nonzero().flatten().tolist()
    warnings.warn(f"images {rows} have values that are not finite; {hint}", RuntimeWarning, stacklevel=3)
