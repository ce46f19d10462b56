import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the subprocesses of tests

import torch
from hypothesis import settings

torch.set_num_threads(1)  # the models are tiny: more threads only wait for one another, and tests run side by side
settings.register_profile("same-every-time", derandomize=True, deadline=None)
settings.load_profile("same-every-time")
