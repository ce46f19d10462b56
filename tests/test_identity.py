"""The fingerprint of a problem differs whenever its pictures may, and only then."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pipelines import make
from torch import nn

import hasten
from hasten.core.errors import HastenError
from hasten.evaluate.identity import fingerprint, tensor_digest, weights_digest
from hasten.evaluate.problem import Problem
from hasten.evaluate.references import References
from hasten.evaluate.samples import choose

SAMPLES = choose(["a", "b"], {"search": 2, "confirm": 2})


def of(pipe, **call) -> str:
    return fingerprint(Problem(pipe, SAMPLES, call={"num_inference_steps": 4, **call}))


def negate(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.neg_()


def shuffle(module: nn.Module) -> None:
    """The same numbers in another order: sums of them do not see it."""
    for parameter in module.parameters():
        parameter.data.copy_(parameter.data.flatten().flip(0).view_as(parameter))


def one_bit(module: nn.Module) -> None:
    last = list(module.parameters())[-1].data.view(-1)
    last[-1:].view(torch.int32).bitwise_xor_(1)


def other_class(pipe) -> None:
    pipe.scheduler = __import__("diffusers").DDIMScheduler.from_config(pipe.scheduler.config)


def other_config(pipe) -> None:
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, beta_end=0.013)


def other_processor(pipe) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    pipe.unet.set_attn_processor(AttnProcessor())


def hooked(pipe) -> None:
    pipe.unet.register_forward_hook(lambda *_: None)


CHANGES = {
    "FreeU": lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.2, 1.4),
    "half": lambda pipe: pipe.unet.half(),
    "bfloat16": lambda pipe: pipe.vae.bfloat16(),
    "training": lambda pipe: pipe.unet.train(),
    "tiling": lambda pipe: pipe.vae.enable_tiling(),
    "processor": other_processor,
    "scheduler's class": other_class,
    "scheduler's config": other_config,
    "hook": hooked,
    "activation": lambda pipe: setattr(pipe.unet, "conv_act", nn.ReLU()),
    "dropout": lambda pipe: setattr(pipe.unet.mid_block.resnets[0], "output_scale_factor", 2.0),
    "tokenizer": lambda pipe: pipe.tokenizer.add_tokens(["zebra"]),
    **{f"negated {name}": lambda pipe, name=name: negate(getattr(pipe, name)) for name in ("unet", "vae")},
    "negated text encoder": lambda pipe: negate(pipe.text_encoder),
    "shuffled": lambda pipe: shuffle(pipe.unet),
    "one bit": lambda pipe: one_bit(pipe.vae),
}


@pytest.fixture(scope="module")
def base() -> str:
    return of(make("sd"))


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_pipeline_is_seen(change, base):
    pipe = make("sd")
    CHANGES[change](pipe)
    assert of(pipe) != base


def test_the_call_the_samples_and_the_versions_are_seen(base, monkeypatch):
    pipe = make("sd")
    pictures = [torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)]
    pictures[1][0, 3, 7, 7] = 1e-9  # which no printed tensor shows
    assert len({base, of(pipe, guidance_scale=2.0), of(pipe, height=24), *(of(pipe, latents=x) for x in pictures)}) == 5
    assert of(pipe, latents=pictures[0]) == of(pipe, latents=pictures[0].clone())
    assert fingerprint(Problem(pipe, choose(["a", "c"], {"search": 2, "confirm": 2}))) != fingerprint(
        Problem(pipe, SAMPLES)
    )
    monkeypatch.setattr(hasten, "__version__", "0.0.0")
    assert of(pipe) != base
    monkeypatch.undo()
    told = json.loads(base)
    assert set(told["versions"]) >= {"hasten", "torch", "diffusers"} and told["device"] == "cpu"


def test_it_is_the_same_for_the_same_and_after_runs(base, tmp_path: Path):
    pipe = make("sd")
    Problem(pipe, SAMPLES, call={"num_inference_steps": 2}).draw(None, SAMPLES["search"])
    pipe(prompt="a", num_inference_steps=2, output_type="latent")
    assert of(pipe) == base
    assert "0x" not in base
    pipe.save_pretrained(tmp_path)
    one, two = (hasten.load(str(tmp_path)) for _ in range(2))
    assert of(one) == of(two)


def test_work_on_another_model_is_refused(tmp_path: Path):
    file = tmp_path / "references.safetensors"
    call = {"num_inference_steps": 2}
    References(Problem(make("sd"), SAMPLES, call=call), file).default("search")
    References(Problem(make("sd"), SAMPLES, call=call), file)
    pipe = make("sd")
    negate(pipe.text_encoder)
    with pytest.raises(HastenError, match="another model"):
        References(Problem(pipe, SAMPLES, call=call), file)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.bool, torch.float64])
def test_tensors_of_every_kind_have_digests(dtype):
    x = (torch.arange(12) % 2).to(dtype).view(3, 4)
    assert tensor_digest(x) == tensor_digest(x.clone()) == tensor_digest(x.T.contiguous().T)
    other = x.clone()
    other[2, 3] = 0
    assert len({tensor_digest(y) for y in (x, other, x.view(4, 3), x.view(-1), x[:0], x[:0].view(4, 0))}) == 6
    assert tensor_digest(x[0, 0]) != tensor_digest(x[0, :1])


def test_swapped_names_are_seen_and_tied_weights_are_read_once():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    one, two = nn.ModuleDict({"x": a, "y": b}), nn.ModuleDict({"x": b, "y": a})
    assert weights_digest(one) != weights_digest(two)
    tied = nn.ModuleDict({"x": a, "y": a})
    assert weights_digest(tied) == weights_digest(tied)
    big = SimpleNamespace(x=nn.Linear(4096, 4096, bias=False))
    begin = time.process_time()
    weights_digest(big.x)
    assert time.process_time() - begin < 2  # 64 MiB
