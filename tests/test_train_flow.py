"""Training of flow models: the objective is its formula, and the network is called as the pipeline calls it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from hasten.processes import RectifiedFlow
from hasten.runtime.adapters import Adapted
from hasten.train import FlowMatching, PooledCaptions
from hasten.train.checkpoints import read_facts, read_tensors
from hasten.zoo_training import emoji, emoji_models

CAPTIONS = ["noto red apple", "twemoji green apple", "noto blue heart", "twemoji key"]


class Conditions(nn.Module):
    def forward(self, condition):
        return {"seen": condition}


class Velocity(nn.Module):
    """The true velocity of data that are all `level`, plus `error`."""

    def __init__(self, level: float, error: float = 0.0):
        super().__init__()
        self.level, self.error = level, error

    def forward(self, x, number, seen):
        self.times, self.seen = number / 1000, seen
        return (x - self.level) / self.times.reshape(-1, 1, 1, 1) + self.error


def test_true_velocity_has_no_loss_and_an_error_its_square():
    batch = {"sample": torch.full((64, 1, 2, 2), 0.5), "condition": torch.zeros(64, dtype=torch.long)}
    assert float(FlowMatching(Velocity(0.5), Conditions(), torch.tensor(9))(batch)) < 1e-6
    assert float(FlowMatching(Velocity(0.5, 2.0), Conditions(), torch.tensor(9))(batch)) == pytest.approx(4, rel=1e-3)


@pytest.mark.parametrize("shift", [1.0, 1.6, 3.0])
def test_times_are_logit_normal_and_shifted(shift):
    network = Velocity(0.0)
    batch = {"sample": torch.zeros(4001, 1, 1, 1), "condition": torch.zeros(4001, dtype=torch.long)}
    FlowMatching(network, Conditions(), torch.tensor(9), RectifiedFlow(shift), drop=0.25)(batch)
    unshifted = network.times / (shift - (shift - 1) * network.times)
    normal = torch.logit(unshifted)
    assert float(normal.mean()) == pytest.approx(0, abs=0.01) and float(normal.std()) == pytest.approx(1, abs=0.01)
    assert float(network.times.median()) == pytest.approx(shift / (1 + shift), abs=1e-3)
    assert float((network.seen == 9).float().mean()) == pytest.approx(0.25, abs=0.03)


@pytest.fixture(scope="module")
def small():
    """A tiny emoji Flux whose blocks do something: (pipeline, transformer, conditioner, ids of the captions)."""
    torch.manual_seed(0)
    clip = emoji_models.tokenizer(CAPTIONS * 20, size=200, length=8)
    t5 = emoji_models.t5_tokenizer(CAPTIONS * 20, size=60)
    encoders = emoji_models.text_encoder(clip, 32), emoji_models.t5_encoder(t5, 32)
    network = emoji_models.flux_transformer(width=64, double=1, single=1, hidden=32)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    pipe = emoji_models.flux(
        emoji_models.autoencoder(8), (clip, encoders[0].eval()), (t5, encoders[1].eval()), network.eval()
    )
    pipe.set_progress_bar_config(disable=True)
    rows = [
        torch.tensor([words(c, padding="max_length", max_length=length).input_ids for c in CAPTIONS])
        for words, length in ((clip, 8), (t5, 32))
    ]
    return pipe, network, PooledCaptions(*encoders, split=8).eval(), torch.cat(rows, 1)


@torch.no_grad()
def test_training_calls_the_transformer_as_the_pipeline_does(small):
    pipe, network, conditioner, ids = small
    noise = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    # one Euler step from sigma 1 to 0 subtracts the velocity
    drawn = pipe(
        CAPTIONS, num_inference_steps=1, latents=pipe._pack_latents(noise, *noise.shape), output_type="latent",
        **emoji_models.FLUX_CALL,
    ).images  # fmt: skip
    expected = noise - Adapted(network)(noise, torch.full((4,), 1000.0), **conditioner(ids))
    torch.testing.assert_close(pipe._unpack_latents(drawn, 64, 64, 4), expected, atol=1e-4, rtol=1e-4)
    others = noise - Adapted(network)(noise, torch.full((4,), 1000.0), **conditioner(ids.roll(1, 0)))
    assert float((others - expected).abs().max()) > 0.01  # the captions matter


def test_only_training_sees_shortened_captions(small):
    *_, conditioner, ids = small
    short = PooledCaptions(conditioner.clip, conditioner.t5, split=8, lengths=(5,), shares=(1.0,))
    assert short.train()(ids)["encoder_hidden_states"].shape[1] == 5
    assert short.eval()(ids)["encoder_hidden_states"].shape[1] == 32


def test_a_new_transformer_predicts_nothing_and_passes_gradients():
    network = emoji_models.flux_transformer(width=64, double=1, single=1, hidden=32)
    known = {"encoder_hidden_states": torch.randn(2, 4, 32), "pooled_projections": torch.randn(2, 32)}
    output = Adapted(network)(torch.randn(2, 4, 16, 16), 1000 * torch.rand(2), **known)
    assert not output.any()
    output.sum().backward()
    assert network.proj_out.weight.grad is not None and network.proj_out.weight.grad.any()


def test_the_t5_tokenizer_survives_saving(tmp_path):
    from transformers import T5Tokenizer

    words = emoji_models.t5_tokenizer(CAPTIONS * 20, size=60)
    words.save_pretrained(tmp_path)
    again = T5Tokenizer.from_pretrained(tmp_path)
    for text in (*CAPTIONS, "noto zebra", ""):
        ids = words(text, padding="max_length", max_length=40).input_ids
        assert again(text, padding="max_length", max_length=40).input_ids == ids
        assert len(ids) == 40 and words.eos_token_id in ids and ids[-1] == words.pad_token_id


def test_varied_copies_move_and_resize_a_little_and_nothing_else():
    pictures = torch.ones(40, 3, 64, 64)
    pictures[:, :, 22:42, 17:47] = torch.tensor([1.0, -1.0, -1.0])[:, None, None]  # a red box, 20 x 30
    made = emoji.varied(pictures, 2, seed=3)
    assert made.shape == (120, 3, 64, 64) and torch.equal(made[:40], pictures)
    assert torch.equal(made, emoji.varied(pictures, 2, seed=3)) and not torch.equal(made[40:80], made[80:])
    ink = (1 - made[:, 1]) / 2  # 1 inside the box
    places = torch.arange(64.0) - 31.5
    mass = ink.sum((1, 2))
    centres = torch.stack([(ink.sum(1) * places).sum(1), (ink.sum(2) * places).sum(1)], 1) / mass[:, None]
    moves = centres[40:] / (mass[40:] / 600).sqrt()[:, None]
    assert float(moves.abs().max()) < 2.3 and float(moves.abs().max()) > 1.5
    sizes = (mass[40:] / 600).sqrt()
    assert 0.955 < float(sizes.min()) < 0.98 and 1.02 < float(sizes.max()) < 1.045
    assert float((made[:, 0] - 1).abs().max()) < 0.05  # red stays at its full, white stays white
    assert float(made[:, :, 0].min()) > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 8])
def test_digits_killed_at_a_step_and_resumed_have_the_same_weights(tmp_path, step):
    script = tmp_path / "train.py"
    script.write_text(
        "import functools, os, signal, sys, torch\n"
        "import hasten.zoo_training.training as training\n"
        "from hasten.zoo_training import train\n"
        "torch.set_num_threads(1)\n"
        "training.Trainer = functools.partial(training.Trainer, save_every=3)\n"
        "calls, fatal, forward = 0, int(sys.argv[2]), training.Denoising.loss\n"
        "def loss(self, batch):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls == fatal:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return forward(self, batch)\n"
        "training.Denoising.loss = loss\n"
        "train('digits', sys.argv[1], steps=10)\n"
    )

    def run(folder: str, fatal: int) -> int:
        command = [sys.executable, str(script), str(tmp_path / folder), str(fatal)]
        return subprocess.run(command, env=os.environ, capture_output=True, timeout=200).returncode

    assert run("whole", 0) == 0
    assert run("killed", step) == -signal.SIGKILL
    kept = tmp_path / "killed" / "checkpoint.safetensors"
    assert read_facts(kept)["step"] == 6 if step == 8 else not kept.exists()
    assert run("killed", 0) == 0
    one, two = (read_tensors(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "killed"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
