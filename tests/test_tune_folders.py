"""Tuning whole pipelines of other kinds, from folders as save_pretrained writes them, by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pipelines
import pytest
import torch
from pipelines import SIZE, WIDTH, clip
from small import hurry

from hasten import zoo
from hasten.cli import main
from hasten.recipe import Recipe

torch.set_num_threads(1)


def t5(width: int) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, T5Config, T5EncoderModel

    tokenizer = AutoTokenizer.from_pretrained(zoo.folder("emoji-flux") / "tokenizer_2")
    sizes = {"d_model": width, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2, "vocab_size": len(tokenizer)}
    return tokenizer, T5EncoderModel(T5Config(**sizes)).eval()


def sdxl() -> Any:
    pipe = pipelines.make("sdxl")
    (first, one), (second, two) = clip(), clip(projected=True)
    config = pipe.unet.config
    unet = diffusers.UNet2DConditionModel.from_config({**config, "cross_attention_dim": 2 * WIDTH})
    return diffusers.StableDiffusionXLPipeline(
        vae=pipe.vae, unet=unet.eval(), text_encoder=one, text_encoder_2=two, tokenizer=first, tokenizer_2=second,
        scheduler=pipe.scheduler, add_watermarker=False,
    )  # fmt: skip


def sd3() -> Any:
    pipe = pipelines.make("sd3")
    (first, one), (second, two), (third, three) = clip(projected=True), clip(projected=True), t5(2 * WIDTH)
    wide = {"joint_attention_dim": 2 * WIDTH, "pooled_projection_dim": 2 * WIDTH}
    transformer = diffusers.SD3Transformer2DModel.from_config({**pipe.transformer.config, **wide})
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer.eval(), scheduler=pipe.scheduler, vae=pipe.vae, text_encoder=one, tokenizer=first,
        text_encoder_2=two, tokenizer_2=second, text_encoder_3=three, tokenizer_3=third,
    )  # fmt: skip


def pixart() -> Any:
    pipe = pipelines.make("pixart")
    tokenizer, encoder = t5(WIDTH)
    return diffusers.PixArtSigmaPipeline(
        vae=pipe.vae, transformer=pipe.transformer, text_encoder=encoder, tokenizer=tokenizer, scheduler=pipe.scheduler
    )


@pytest.mark.parametrize(
    ("make", "more"),
    [
        pytest.param(sdxl, {}, marks=pytest.mark.slow),
        pytest.param(sd3, {}, marks=pytest.mark.slow),
        pytest.param(pixart, {"use_resolution_binning": False}, marks=pytest.mark.slow),
    ],
)
def test_any_pipeline_in_a_folder_can_be_tuned(
    make: Any, more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    model, out, prompts = tmp_path / "model", tmp_path / "out", tmp_path / "prompts.txt"
    make().save_pretrained(model)
    settings = {"num_inference_steps": 6, "height": SIZE, "width": SIZE, "max_sequence_length": 8} | more
    if make is sdxl:
        del settings["max_sequence_length"]
    (model / "call.json").write_text(json.dumps(settings))
    prompts.write_text("a fox\na cat\na dog\nan owl\n")
    with pytest.raises(SystemExit) as ended:
        main(["tune", str(model), "--prompts", str(prompts), "--out", str(out), "--trials", "2", "--minutes", "0.2",
              "--budget", "1000x"])  # fmt: skip
    assert ended.value.code in (0, None)
    recipe = Recipe.load(out)
    assert recipe.solver is not None and (out / "report.html").exists()
    assert json.loads((out / "front.json").read_text())["facts"]["pipeline"] == type(make()).__name__
