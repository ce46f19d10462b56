"""A diffusers scheduler that hosts any solver: `step` sends the prediction in and hands the next state out.

Longer than 300 lines: one class, whose methods are those that pipelines of diffusers call.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from hasten.bridge.extras import (
    adjusted,
    adjusted_reading,
    check_call,
    check_extras,
    per_token,
    without_variance,
)
from hasten.bridge.layout import Layout, start_scale
from hasten.bridge.spacing import consistency_levels
from hasten.bridge.tables import Tables, at_numbers
from hasten.bridge.walking import Walking
from hasten.core.errors import HastenError, one_of, unknown
from hasten.grids import ENDS, GRIDS, GridLike, resolve
from hasten.predictions import Prediction, reading_of
from hasten.processes import VarianceExploding, class_of, from_config, understood
from hasten.processes.configs import OURS, defaults, described
from hasten.runtime.run import Run
from hasten.solvers import SOLVERS, DPMSolverPP, Solver

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

    @property
    def denoised(self) -> Tensor | None:
        """The data prediction, as LCM's output calls it."""
        return self.pred_original_sample


class SolverScheduler(Tables, SchedulerMixin, ConfigMixin):
    """Any solver as a scheduler of any diffusers pipeline.

    Make one with `SolverScheduler.from_config(pipe.scheduler.config, solver=..., grid=..., end="data")`, or better
    `SolverScheduler.of(pipe.scheduler, solver=...)`, which knows its class. The noise schedule and the kind of
    prediction come from that config, and are kept in this one's, from which a diffusers scheduler can be made back.

    solver: an instance, name or mapping; DPM-Solver++ 2M if None.
    grid: a name, mapping, Grid or explicit times; None visits the times the original scheduler would.
    end: "data" or "min" (see `hasten.grids.schedule`); None ends where the original would, and on data with a grid.
    origin: the class of diffusers that the config is of; None tells it by the fields.
    generator: an attribute; the noise of stochastic solvers comes from it where a pipeline hands none to `step`.
    whole_steps: an attribute; whether the pipeline looks up the timesteps in a table of its own.
    given: an attribute; which of "timesteps", "sigmas", "eta" the pipeline's caller passed, None if nobody says.
    run: the `hasten.runtime.run.Run` that caches and guidance read; not in `__dict__`, which pipelines copy.

    Raises HastenError for unknown names, impossible fields, and configs that are refused.
    """

    __slots__ = ("_generator", "generator", "run")
    _compatibles: ClassVar[list[str]] = [*(e.name for e in KarrasDiffusionSchedulers), *FLOW_SCHEDULERS]
    order = 1

    def __init__(
        self, solver: Solver | str | Mapping[str, Any] | None = None, grid: GridLike | None = None,
        end: str | None = None, origin: str | None = None, **source: Any,
    ) -> None:  # fmt: skip
        if end is not None:
            one_of("end", end, ENDS)
        source = {"num_train_timesteps": 1000} | source
        named = source | ({"_class_name": origin} if origin else {})
        self._row, _ = understood(named)
        self.solver: Solver = _solver(solver, self._row, origin)
        self.grid = None if grid is None else resolve(grid)
        self.end = end
        kept = None if self.grid is None else GRIDS.describe(self.grid)
        self.register_to_config(**source, solver=SOLVERS.describe(self.solver), grid=kept, end=end, origin=origin)
        self.process = from_config(named)
        self._resting = self._reading = reading_of(self.process, named)
        self.run = Run(self.process, self._reading)
        self.order = self.solver.evaluations
        self.init_noise_sigma = start_scale(self.process, self._row, source, *self._noisiest())
        self.num_inference_steps: int | None = None
        self.generator: Generators = None
        self._generator: Generators = None
        self.given: frozenset[str] | None = None
        self.whole_steps = False
        self.timesteps = torch.arange(int(source["num_train_timesteps"]) - 1, -1, -1)
        self._lay_tables()
        self._layout: Layout | None = None
        self._position = 0
        self._reset()

    @classmethod
    def of(cls, scheduler: Any, **settings: Any) -> SolverScheduler:
        """One that stands in for a scheduler, of diffusers or hasten's own.

        settings: solver, grid and end, and fields of its config that are to be replaced.
        """
        return cls.from_config(described(scheduler), **settings)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler from the config of any diffusers scheduler (or of this one); kwargs replace its fields.

        Raises HastenError for fields that neither this class nor the config knows.
        """
        if not isinstance(config, Mapping):
            raise HastenError(f"config: {config!r} is not a scheduler config; give one such as pipe.scheduler.config")
        origin = kwargs.pop("origin", None) or class_of(config)
        settings = defaults(origin) | dict(config) | {"origin": origin}
        for key in kwargs:
            if key not in settings and key not in OURS:
                raise unknown("SolverScheduler", key, [*settings, *OURS])
        public = {key: value for key, value in (settings | kwargs).items() if not key.startswith("_")}
        scheduler = cls(**public)
        if "_use_default_values" in config:  # lets a scheduler made back from this config use its own defaults
            scheduler.register_to_config(_use_default_values=list(config["_use_default_values"]))
        return (scheduler, {}) if return_unused_kwargs else scheduler

    def check_call(self, arguments: Mapping[str, Any]) -> None:
        """Look whether the solver can honour what a caller passes to a pipeline, before anything is run.

        arguments: of the call, by name. Raises HastenError for the first that it cannot.
        """
        check_call(self.solver, arguments)

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None, sigmas: Sequence[float] | None = None, mu: float | None = None,
        **asked: Any,
    ) -> None:  # fmt: skip
        """Lay out a run. With timesteps and sigmas, flow models step along sigmas and show the network timesteps.

        num_inference_steps: steps, each of `order` network calls.
        device: where `timesteps` is put.
        timesteps: the numbers the network is shown at the start of each step.
        sigmas: for flow models noise levels in (0, 1] before the shift, else sigma / alpha.
        mu: the shift of models that shift by picture size.
        asked: original_inference_steps and strength of LCM, max_timesteps and intermediate_timesteps of Sana Sprint.

        Raises HastenError for contradictory or impossible values, and then changes nothing.
        """
        for key in asked:
            one_of("set_timesteps", key, ASKED)
        if timesteps is not None and self._row.closes and len(timesteps) > 1 and float(timesteps[-1]) == 0:
            num_inference_steps, timesteps = None, timesteps[:-1]
        if timesteps is not None and self._row.spacing == "consistency":  # places in training
            timesteps, sigmas = None, consistency_levels(self.config, self.process, timesteps).tolist()
        layout = Layout.of(
            self.config, self._resting, self.solver, self.grid, self.end, num_inference_steps, timesteps, sigmas, mu,
            asked, self.given,
        )  # fmt: skip
        if self.whole_steps and (layout.numbers % 1).any():
            raise HastenError(
                "grid: this pipeline looks up its timesteps in a table, and those of this run are no whole numbers; "
                'leave it out, or choose "trailing" and a solver of one query a step'
            )
        self._layout = layout
        self.process = self.run.process = layout.process
        self._reading = self.run.reading = replace(self._resting, process=layout.process)
        self.num_inference_steps, self.init_noise_sigma = layout.steps, layout.start_scale(self._row, self.config)
        self.timesteps, self.sigmas = layout.timesteps(device, self._row.closes), layout.sigmas()
        self._reset()
        self.run.begin(layout.steps)
        self._follow_from(0)

    def _noisiest(self) -> tuple[float, float]:
        """alpha and sigma where training began."""
        return float(self.process.alpha(self.process.t_max)), float(self.process.sigma(self.process.t_max))

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at this query of the run rather than the first: image-to-image starts midway, without a history."""
        if self._layout is not None:
            self._follow_from(begin_index)
        self._begin_index = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The state as the network wants it: as it is, unless states are in levels or the model is an EDM."""
        layout = self._layout
        if self._walking is None and self._begin_index is None and layout is not None and timestep is not None:
            self._follow_from(layout.index_of(timestep, self.timesteps))
        if not self._row.in_levels and not isinstance(self.process, VarianceExploding):
            return sample
        if layout is None:
            raise HastenError("scale_model_input: no run was laid out; call set_timesteps first")
        index = min(self._position if self._step_index is None else self._step_index, len(layout.levels) - 1)
        return self._reading.input(sample * self._carried(index), layout.levels[index][1])

    def _carried(self, index: int) -> float:
        """What a pipeline's state at query `index` is multiplied by to be a state of the process."""
        assert self._layout is not None
        levels = self._layout.levels
        alpha = levels[index][0] if index < len(levels) else self._layout.end[0]
        return alpha if self._row.in_levels and alpha > 0 else 1.0

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Generators = None,
        return_dict: bool = True, eta: float = 0.0, **extras: Any,
    ) -> SolverSchedulerOutput | tuple[Tensor, ...]:  # fmt: skip
        """Take the network's answer for the current query and return the state of the next one.

        model_output: the answer, shaped like `sample`, but for channels of a variance that is learned.
        timestep: one of `timesteps`, only looked at in the first step of a run.
        sample: the state, (rows, ...); half precision is stepped in float32, and the result has its dtype.
        generator: of the noise of stochastic solvers, one or one an image.
        return_dict: return a `SolverSchedulerOutput`, else a tuple of as many values as the original scheduler's.
        eta: not 0 replaces the solver's eta for this run.
        extras: further arguments of diffusers' schedulers, see `hasten.bridge.extras`.

        Raises HastenError outside of a run, and for extras that the solver cannot honour.
        """
        layout, extras = self._layout, extras | {"eta": eta}
        if layout is None:
            raise HastenError("step: no run was laid out; call set_timesteps first")
        if self._peeked:
            raise HastenError("step: the number of rows changed in the middle of a run, which is not supported")
        check_extras(self.solver, extras)
        if self._walking is None:
            self._locate(layout, timestep)
        index = self._step_index
        x = sample.float() if sample.dtype in (torch.float16, torch.bfloat16) else sample
        x = x * self._carried(index) if self._row.in_levels and index is not None else x
        learned = self.config.get("variance_type") in ("learned", "learned_range")
        output = without_variance(model_output, sample, learned).to(x.dtype)
        if self._walking is None:
            self._start(layout, x, extras)
        if index is None or index >= len(layout.levels):
            raise HastenError("step: this run is over; call set_timesteps to begin another")
        self._generator = self.generator if generator is None else generator
        self._handed = extras.get("variance_noise")
        levels, following = layout.levels[index], None
        if extras.get("per_token_timesteps") is not None:
            *levels, following = per_token(extras["per_token_timesteps"], self.process, self.sigmas)
            output = -output  # diffusers then takes the velocity towards data
        prediction = adjusted_reading(self._reading, extras).at(x, output, *levels)
        if extras.get("pred_original_sample") is not None:
            prediction = prediction.with_data(extras["pred_original_sample"].to(x.dtype))
        state, data = self._advance(index, prediction, following), prediction.data.to(sample.dtype)
        state = (state / self._carried(index + 1) if self._row.in_levels else state).to(sample.dtype)
        if return_dict:
            return SolverSchedulerOutput(state, data)
        return (state, data)[: self._row.returns]

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Data with noise, as states are here, at these network numbers, one a row (or one for all)."""
        alpha, sigma = at_numbers(self.process, timesteps, original_samples)
        if self._row.in_levels:
            return original_samples + sigma / alpha * noise
        return alpha * original_samples + sigma * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise`, as flow pipelines call it."""
        return self.add_noise(sample, noise, timestep)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """alpha * noise - sigma * data: what a v-prediction network is trained to answer."""
        alpha, sigma = at_numbers(self.process, timesteps, sample)
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

    @property
    def _step_index(self) -> int | None:
        return self.__dict__["_index"]

    @_step_index.setter
    def _step_index(self, index: int | None) -> None:
        """Pipelines that precondition by themselves (Cosmos) go back by one, to make the same step again."""
        before, self.__dict__["_index"] = self.__dict__.get("_index"), index
        if index is None or before is None or index != before - 1 or self._walking is None:
            return
        if not self._peeked and not self._walking.undo():
            self._walking = None
        if not self._peeked:
            self.run.past[:] = self.run.past[:-1]
            self.run.follow(self._tail[index - self._position])
        self._peeked = False

    def _reset(self) -> None:
        self._walking: Walking | None = None
        self.__dict__["_index"] = None
        self._begin_index: int | None = None
        self._last_noise: tuple[int, Tensor] | None = None
        self._handed: Tensor | None = None
        self._peeked = False

    def _follow_from(self, index: int) -> None:
        """Make query `index` the first one of the run."""
        assert self._layout is not None
        self._tail = self._layout.tail(self.solver, index)
        self._position = int(index)
        self.run.follow(self._tail[0])
        self.run.times = tuple(query.t for query in self._tail) if self.solver.evaluations == 1 else ()

    def _locate(self, layout: Layout, timestep: Any) -> None:
        """See where the first step of a run is."""
        if self._begin_index is None and self._step_index is None:
            self._follow_from(layout.index_of(timestep, self.timesteps))
        self.__dict__["_index"] = self._position

    def _start(self, layout: Layout, state: Tensor, extras: Mapping[str, Any]) -> None:
        self._noise_like = state
        times = layout.times[layout.queries[self._position].step :]
        self._walking = Walking(adjusted(self.solver, extras, self.given), self.process, times, state)

    def _advance(self, index: int, prediction: Prediction, following: Tensor | None) -> Tensor:
        """Tell the walk the answer to query `index`; the state of the next one.

        following: the next level of every token, where tokens have times of their own.
        """
        assert self._walking is not None
        x = prediction.x
        if x.shape != self._walking.state.shape:  # more rows than the run has: only the data prediction is wanted
            self._peeked, self.__dict__["_index"] = True, index + 1
            return x
        self.__dict__["_index"] = index + 1
        self.run.count(len(x))
        self.run.answer(prediction)
        if following is not None:
            self.run.follow(self._tail[min(index + 1 - self._position, len(self._tail) - 1)])
            return x + (following - prediction.sigma) * prediction.velocity
        try:
            query = self._walking.send(prediction, self._noise)
            self.run.follow(query)
            return self.run.edited(self.run, query.x)
        except StopIteration as done:
            _check_finite(done.value)
            return done.value

    def _noise(self, step: int) -> Tensor:
        if self._handed is not None:
            return self._handed
        if self._last_noise is None or self._last_noise[0] != step:
            like = self._noise_like
            drawn = randn_tensor(like.shape, generator=self._generator, device=like.device, dtype=like.dtype)
            self._last_noise = (step, drawn)
        return self._last_noise[1]


ASKED = ("original_inference_steps", "strength", "max_timesteps", "intermediate_timesteps", "num_train_timesteps")


def _solver(given: Any, row: Any, origin: str | None) -> Solver:
    """The solver of a scheduler. Raises HastenError for one that cannot be hosted, or not on such models."""
    if given is None and row.named:
        raise HastenError(
            f"solver: None is not possible for {origin}, whose models the default solver is not made for; name one"
        )
    solver = DPMSolverPP() if given is None else SOLVERS.build(given)
    if solver.adaptive:
        raise HastenError(
            f"solver: {solver.name!r} chooses its times as it goes, and a pipeline lays them out beforehand; "
            "use hasten.sample, or choose another solver"
        )
    if row.solvers and (solver.name not in row.solvers or solver.stochastic):
        raise HastenError(
            f"solver: {solver.name!r} is not possible for {origin}, whose models answer for a whole step; choose one "
            f"of: {', '.join(row.solvers)}"
        )
    return solver


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
