"""The Trainer is exact and deterministic; the objectives are the formulas they claim to be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from hasten.core.errors import HastenError
from hasten.processes import Cosine, RectifiedFlow, VariancePreserving
from hasten.train import Captions, Denoising, Labels, Objective, Reconstruction, Trainer
from hasten.train.checkpoints import read_facts, read_tensors

ALPHAS = torch.linspace(0.999, 0.01, 1000)
PROCESS = VariancePreserving(ALPHAS.numpy())


class Noisy(Objective):
    """A regression with dropout and random targets: every source of randomness a step can have."""

    def __init__(self, interrupt_at: int = 0, crash_at: int = 0):
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.calls, self.interrupt_at, self.crash_at = 0, interrupt_at, crash_at

    def loss(self, batch):
        self.calls += 1
        if self.calls == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        if self.calls == self.crash_at:
            raise RuntimeError("power cut")
        return (self.net(batch["x"]) - batch["y"] - 0.1 * torch.randn(())).square().mean()


def trainer(folder: Path, objective: Objective | None = None, steps: int = 12, **changes) -> Trainer:
    data = {"x": torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), "y": torch.arange(10.0)[:, None]}
    options = {"batch": 4, "lr": 0.05, "warmup": 3, "save_every": 4, "quiet": True} | changes
    return Trainer(objective or Noisy(), data, folder, steps, **options)


def same(a: Path, b: Path) -> bool:
    one, two = read_tensors(a), read_tensors(b)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("cut", [{"interrupt_at": 25}, {"crash_at": 43}])
def test_a_run_that_was_cut_ends_with_the_same_bits(tmp_path, cut):
    options = {"steps": 60, "save_every": 15}
    whole = trainer(tmp_path / "whole", **options)
    whole.run()
    broken = trainer(tmp_path / "broken", Noisy(**cut), **options)
    if "crash_at" in cut:
        with pytest.raises(RuntimeError, match="power cut"):
            broken.run()
        assert read_facts(broken.checkpoint)["step"] == 30
    else:
        broken.run()
        assert broken.step == 25 and not broken.finished
    torch.randn(17)
    resumed = trainer(tmp_path / "broken", **options)
    resumed.run()
    assert resumed.finished
    assert same(whole.checkpoint, resumed.checkpoint)
    for folder in ("whole", "broken"):  # the crash came after the row of step 40, which was cut and written again
        rows = [json.loads(line) for line in (tmp_path / folder / "log.jsonl").open()]
        assert [row["step"] for row in rows] == [20, 40, 60]


def test_every_step_draws_new_noise_that_the_seed_decides(tmp_path):
    def noise(seed: int) -> list[float]:
        seen = []

        class Watched(Noisy):
            def loss(self, batch):
                seen.append(float(torch.randn(())))
                return super().loss(batch)

        trainer(tmp_path / str(len(list(tmp_path.iterdir()))), Watched(), seed=seed).run()
        return seen

    first = noise(0)
    assert len(set(first)) == 12
    assert noise(0) == first
    assert not set(noise(1)) & set(first)


def test_the_signal_handlers_and_the_random_state_are_given_back(tmp_path):
    handlers, state = signal.getsignal(signal.SIGINT), torch.get_rng_state()
    trainer(tmp_path).run()
    assert signal.getsignal(signal.SIGINT) is handlers
    assert torch.equal(torch.get_rng_state(), state)


def test_resume_can_be_declined(tmp_path):
    first = trainer(tmp_path)
    first.run()
    before = read_tensors(first.checkpoint)
    again = trainer(tmp_path, steps=3)
    again.run(resume=False)
    assert read_facts(again.checkpoint)["step"] == 3
    assert not torch.equal(before["model.net.0.weight"], read_tensors(again.checkpoint)["model.net.0.weight"])


def test_every_epoch_shows_every_sample_once_in_a_new_order(tmp_path):
    one = trainer(tmp_path)  # 10 samples, batches of 4: five steps are two epochs
    drawn = [int(i) for step in range(5) for i in one.order(step)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    assert torch.equal(one.order(3), trainer(tmp_path).order(3))
    assert drawn[:10] != [int(i) for step in range(3) for i in trainer(tmp_path, seed=1).order(step)][:10]


def test_learning_rate_warms_up_stays_and_falls_to_zero(tmp_path):
    one = trainer(tmp_path, steps=100, lr=1.0, warmup=10, decay=0.2)
    assert [one.learning_rate(s) for s in (0, 4, 9, 50, 79)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert [one.learning_rate(s) for s in (90, 99, 100)] == pytest.approx([0.5, 0.05, 0])


def test_the_average_is_the_recursion(tmp_path):
    seen = []

    class Watched(Noisy):
        def loss(self, batch):
            seen.append(self.net[0].weight.detach().clone())
            return super().loss(batch)

    averaged = trainer(tmp_path, Watched(), steps=5, average=0.3).run()
    last = read_tensors(tmp_path / "checkpoint.safetensors")["model.net.0.weight"]
    expected = seen[0]
    for step, weight in enumerate([*seen[1:], last]):
        keep = min(0.3, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * weight
    assert torch.allclose(averaged.net[0].weight, expected, atol=1e-6)


class Taught(Noisy):
    """Noisy, with a frozen teacher that has a buffer and dropout, and weights under which others train."""

    def __init__(self, **cut):
        super().__init__(**cut)
        self.teacher = nn.Sequential(nn.Linear(4, 1), nn.BatchNorm1d(1), nn.Dropout(0.5)).requires_grad_(False)
        self.net[0].weight.requires_grad_(False)

    def loss(self, batch):
        assert self.net.training and not any(part.training for part in self.teacher.modules())
        return super().loss(batch) + (self.net(batch["x"]) - self.teacher(batch["x"])).square().mean()


def test_what_is_frozen_is_in_no_checkpoint_and_not_copied(tmp_path):
    objective = Taught()
    before = {name: tensor.clone() for name, tensor in objective.teacher.state_dict().items()}
    averaged = trainer(tmp_path / "whole", objective, steps=8).run()
    kept = {name for name in read_tensors(tmp_path / "whole" / "checkpoint.safetensors") if "optimizer" not in name}
    trained = {"net.0.bias", "net.2.weight", "net.2.bias"}
    assert kept == {f"{part}.{name}" for part in ("model", "average") for name in trained}
    assert set(objective.state_dict()) == set(averaged.state_dict()) == trained
    assert averaged.teacher[0].weight.data_ptr() == objective.teacher[0].weight.data_ptr()
    assert averaged.net[0].weight.data_ptr() == objective.net[0].weight.data_ptr()
    assert averaged.net[2].weight.data_ptr() != objective.net[2].weight.data_ptr()
    assert all(torch.equal(tensor, before[name]) for name, tensor in objective.teacher.state_dict().items())

    for cut in ({"interrupt_at": 5}, {}):  # and a run that is resumed finds its teacher by itself
        trainer(tmp_path / "parts", Taught(**cut), steps=8).run()
    assert same(tmp_path / "whole" / "checkpoint.safetensors", tmp_path / "parts" / "checkpoint.safetensors")
    state = averaged.state_dict()
    del state["net.2.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*net\.2\.bias"):  # only what is frozen may be
        Taught().load_state_dict(state)
    with pytest.raises(HastenError, match="objective: no parameter of Taught takes gradients"):
        trainer(tmp_path / "still", Taught().requires_grad_(False)).run()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from hasten.train import Objective, Trainer\n"
        "class Plain(Objective):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.net = torch.nn.Linear(4, 1).double()\n"
        "    def loss(self, batch):\n"
        "        return (self.net(batch['x']) - 1).square().mean()\n"
        "data = {'x': torch.arange(40.0, dtype=torch.float64).reshape(10, 4) / 40}\n"
        "Trainer(Plain(), data, Path(sys.argv[1]), steps=6, batch=4, quiet=True).run()\n"
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for name, command in (("two", run), ("one", [sys.executable])):
        arguments = [*command, str(script), str(tmp_path / name)]
        subprocess.run(arguments, check=True, env=environment, capture_output=True, timeout=120)
    one, two = (read_tensors(tmp_path / name / "checkpoint.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], rtol=1e-9, atol=1e-12), name


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    class Exploding(Noisy):
        def loss(self, batch):
            return super().loss(batch) * (float("nan") if self.calls == 6 else 1)

    with pytest.raises(ValueError, match="loss: nan at step 6"):
        trainer(tmp_path, Exploding()).run()
    assert read_facts(tmp_path / "checkpoint.safetensors")["step"] == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"steps": 0}, "steps: 0"), ({"batch": -1}, "batch: -1"), ({"lr": 0.0}, "lr: 0.0"), ({"average": 1.0}, "average")],
)
def test_bad_settings_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path / "new", **changes).run()
    assert not (tmp_path / "new").exists()


def test_bad_data_and_another_run_in_the_folder_are_refused(tmp_path):
    uneven = trainer(tmp_path)
    uneven.data = {"x": torch.zeros(3), "y": torch.zeros(4)}
    with pytest.raises(ValueError, match="data: every tensor needs the same length"):
        uneven.run()
    trainer(tmp_path, steps=4).run()
    with pytest.raises(ValueError, match="batch: 5 differs from 4"):
        trainer(tmp_path, batch=5).run()


def test_pictures_are_drawn_while_it_runs(tmp_path):
    from PIL import Image

    steps = []

    def draw(averaged):
        steps.append(averaged.training)
        return Image.new("RGB", (4, 4))

    trainer(tmp_path, steps=40, draw_every=20, draw=draw).run()
    assert steps == [False, False, False]  # twice on the way, once at the end, never in training mode
    assert {"loss.png", "samples.png"} <= {path.name for path in tmp_path.iterdir()}


class Oracle(nn.Module):
    """Predicts `error` more than the true noise of clean samples that are all `level`."""

    def __init__(self, level: float = 0.0, error: float = 0.0):
        super().__init__()
        self.level, self.error = level, error
        self.seen: list[Tensor] = []

    def forward(self, states, times, class_labels):
        self.seen.append(class_labels)
        alpha, sigma = ((v**0.5).reshape(-1, 1, 1, 1) for v in (ALPHAS[times], 1 - ALPHAS[times]))
        return SimpleNamespace(sample=(states - alpha * self.level) / sigma + self.error)


def denoising(network: nn.Module, **options) -> Denoising:
    return Denoising(network, Labels(), torch.tensor(9), PROCESS, **options)


def test_true_noise_has_no_loss():
    batch = {"sample": torch.full((64, 1, 2, 2), 0.5), "condition": torch.zeros(64, dtype=torch.long)}
    assert float(denoising(Oracle(level=0.5))(batch)) < 1e-8


@pytest.mark.parametrize("gamma", [5.0, 0.5, 1e9])
def test_errors_weigh_min_snr_over_snr(gamma):
    count = 1000  # stratified: every one of the 1,000 times is drawn once
    batch = {"sample": torch.zeros(count, 1, 2, 2), "condition": torch.zeros(count, dtype=torch.long)}
    snr = ALPHAS / (1 - ALPHAS)
    expected = 4.0 * (snr.clamp(max=gamma) / snr).mean()
    torch.testing.assert_close(denoising(Oracle(error=2.0), gamma=gamma)(batch), expected, rtol=1e-4, atol=0)


def test_a_place_that_rounds_to_the_end_is_the_last_time(monkeypatch):
    """In float32, (63 + u) / 64 is 1 for the largest u below 1: one past the table."""
    monkeypatch.setattr(torch, "rand", lambda count, **_: torch.full((count,), 1 - 2**-24))
    network = Watching()
    denoising(network)({"sample": torch.zeros(64, 1, 2, 2), "condition": torch.zeros(64, dtype=torch.long)})
    assert int(network.numbers.max()) == 999 and network.numbers.dtype == torch.int64


class Watching(nn.Module):
    def forward(self, x, number, class_labels):
        self.numbers = number
        return x


@pytest.mark.parametrize(
    "process", [Cosine(), RectifiedFlow(3.0), VariancePreserving.from_betas(zero_terminal_snr=True)]
)
def test_any_process_noises(process):
    """Times are spread over all of it, the network is shown its numbers, and pure noise is no 0 / 0."""
    network = Watching()
    objective = Denoising(network, Labels(), torch.tensor(9), process, drop=0.0)
    loss = objective({"sample": torch.zeros(2000, 1, 2, 2), "condition": torch.zeros(2000, dtype=torch.long)})
    shown, ends = network.numbers.double(), process.network_time([process.t_min, process.t_max])
    assert torch.isfinite(loss)
    assert float(shown.min()) == pytest.approx(ends[0], abs=1.5) and float(shown.max()) == pytest.approx(
        ends[1], abs=1.5
    )
    assert network.numbers.is_floating_point() != process.discrete


@pytest.mark.parametrize("drop", [0.0, 0.3, 1.0])
def test_captions_are_dropped_at_the_given_rate(drop):
    network = Oracle()
    batch = {"sample": torch.zeros(4000, 1, 2, 2), "condition": torch.arange(4000) % 9}
    torch.manual_seed(0)
    denoising(network, drop=drop)(batch)
    dropped = network.seen[0] == 9
    assert float(dropped.float().mean()) == pytest.approx(drop, abs=0.03 * (0 < drop < 1))
    assert torch.equal(network.seen[0][~dropped], batch["condition"][~dropped])


def test_whole_captions_are_dropped_and_the_text_encoder_learns():
    table = nn.Embedding(10, 3)
    encoder = SimpleNamespace(rows=[])

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = table

        def forward(self, tokens):
            encoder.rows.append(tokens)
            return (self.table(tokens),)

    class Network(nn.Module):
        def forward(self, states, times, encoder_hidden_states):
            return SimpleNamespace(sample=states + encoder_hidden_states.mean((1, 2))[:, None])

    null = torch.tensor([0, 9, 9, 9])
    objective = Denoising(Network(), Captions(Encoder()), null, PROCESS, drop=0.5)
    objective({"sample": torch.zeros(64, 1), "condition": torch.tensor([[0, 1, 2, 9]] * 64)}).backward()
    rows = {tuple(row.tolist()) for row in encoder.rows[0]}
    assert rows == {(0, 9, 9, 9), (0, 1, 2, 9)}
    assert table.weight.grad is not None and table.weight.grad[1].abs().sum() > 0


class Codec(nn.Module):
    """Encodes to `scale` * image + `shift` and decodes what it is given to `level`, ignoring it."""

    def __init__(self, scale: float, shift: float, level: float):
        super().__init__()
        self.encoder = lambda x: scale * x + shift
        self.decoder = lambda z: torch.full_like(z, level)


def test_reconstruction_is_l1_and_l2_and_the_spread_of_latents():
    images = torch.tensor([-1.0, 1.0]).repeat(8).reshape(4, 1, 2, 2)
    std = float(images.std())
    loss = Reconstruction(Codec(3.0, 0.5, 0.0), square=10.0, spread=0.1)({"sample": images})
    assert float(loss) == pytest.approx(1 + 10 * 1 + 0.1 * (0.5**2 + (3 * std - 1) ** 2), rel=1e-6)
    calm = Reconstruction(Codec(1 / std, 0.0, 0.0), square=0.0, spread=7.0)({"sample": images})
    assert float(calm) == pytest.approx(1.0, rel=1e-6)


def test_the_decoder_is_shown_noise_of_the_given_size():
    codec = Codec(1.0, 0.0, 0.0)
    seen = []
    codec.decoder = lambda z: seen.append(z) or z
    images = torch.zeros(4, 1, 64, 64)
    Reconstruction(codec, jitter=0.2)({"sample": images})
    assert float(seen[0].std()) == pytest.approx(0.2, rel=0.05)
