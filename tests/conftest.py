import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the subprocesses of tests

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # the models are tiny: more threads only wait for one another, and tests run side by side
settings.register_profile("same-every-time", derandomize=True, deadline=None)
settings.load_profile("same-every-time")


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One tuning that many tests look at."""
    import pipelines
    import small

    with pytest.MonkeyPatch.context() as patch:
        small.hurry(patch)
        pipe, out = pipelines.make("sd"), tmp_path_factory.mktemp("tuned")
        before = set(vars(pipe))
        result = small.tuned(out, pipe)
        return SimpleNamespace(pipe=pipe, out=out, result=result, left_behind=set(vars(pipe)) ^ before)
