"""The shipped models load, are small and safe, do what their cards say; the data set is what it claims."""

from __future__ import annotations

import inspect
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hasten import zoo, zoo_training
from hasten.core.errors import HastenError
from hasten.zoo.digits import WORDS, DigitsPipeline
from hasten.zoo_training import emoji, emoji_models, quality
from hasten.zoo_training.card import LIMIT


@pytest.fixture(scope="module")
def digits() -> DigitsPipeline:
    return zoo.load("digits")


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(n) for n in numbers]


@pytest.mark.parametrize("name", zoo.names())
def test_shipped_folders_are_small_and_hold_only_safe_files(name):
    files = [path for path in zoo.folder(name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") < LIMIT
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".png"}
    assert {"README.md", "evaluation.json", "captions.json", "model_index.json"} <= {path.name for path in files}


@pytest.mark.parametrize("name", zoo.names())
def test_models_load_as_float32_for_inference(name):
    pipe = zoo.load(name)
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert modules and not any(module.training for module in modules)
    assert {p.dtype for module in modules for p in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", zoo.names())
def test_prompts_to_search_with_and_to_confirm_with_are_disjoint(name):
    search, confirm = zoo.captions(name, "search"), zoo.captions(name, "confirm")
    assert search and confirm
    styles = set(emoji.STYLES)
    subjects = [{" ".join(w for w in c.split() if w not in styles) for c in part} for part in (search, confirm)]
    assert not subjects[0] & subjects[1]


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(HastenError, match="did you mean 'digits'"):
        zoo.folder("digit")
    with pytest.raises(HastenError, match="did you mean 'confirm'"):
        zoo.captions("digits", "confirmed")
    with pytest.raises(HastenError, match="did you mean 'emoji-sd'"):
        zoo_training.train("emoji_sd")


def test_digits_draws_what_is_asked(digits):
    pytest.importorskip("sklearn")
    accuracy = quality.digit_accuracy(digits, count=40)["accuracy"]
    assert accuracy["value"] >= 0.9


def test_digits_in_a_batch_equal_digits_alone(digits):
    together = digits(["three", "7", ""], 5, generator=seeds(1, 2, 3), output_type="latent").images
    alone = [
        digits(p, 5, generator=seeds(s), output_type="latent").images for p, s in [("3", 1), ("SEVEN", 2), (" ", 3)]
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_digits_is_the_plain_loop(digits, guidance):
    noise = torch.randn(1, 1, 8, 8, generator=seeds(0)[0])
    scheduler = digits.scheduler.from_config(digits.scheduler.config)
    scheduler.set_timesteps(4)
    state = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            bound, free = (digits.unet(state, t, class_labels=torch.tensor([c])).sample for c in (5, 10))
            state = scheduler.step(free + guidance * (bound - free), t, state).prev_sample
    drawn = digits("five", 4, guidance_scale=guidance, latents=noise, output_type="latent").images
    torch.testing.assert_close(drawn, state, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_digits_runs_any_diffusers_scheduler(digits):
    from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler

    noise = torch.randn(4, 1, 8, 8, generator=seeds(0)[0])

    def draw(scheduler, steps):
        pipe = DigitsPipeline(digits.unet, scheduler.from_config(digits.scheduler.config))
        pipe.set_progress_bar_config(disable=True)
        return pipe(["2", "4", "6", "8"], steps, latents=noise.clone(), output_type="latent").images

    fine = draw(type(digits.scheduler), 200)
    for scheduler in (DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler):
        assert float((draw(scheduler, 50) - fine).square().mean().sqrt()) < 0.15, scheduler


def test_digits_output_types_are_the_same_picture(digits):
    def draw(kind):
        return digits(["1", "2"], 3, generator=seeds(4, 5), output_type=kind).images

    latent, pixels, array, pictures = (draw(kind) for kind in ("latent", "pt", "np", "pil"))
    assert latent.shape == pixels.shape == (2, 1, 8, 8) and array.shape == (2, 8, 8, 1)
    torch.testing.assert_close(pixels, (latent / 2 + 0.5).clamp(0, 1))
    np.testing.assert_allclose(array[..., 0], pixels[:, 0].numpy())
    for picture, one in zip(pictures, array, strict=True):
        assert picture.mode == "L" and np.abs(np.asarray(picture) / 255 - one[..., 0]).max() <= 0.5 / 255 + 1e-6


def test_digits_call_backs_can_edit_and_stop(digits):
    seen = []

    def watch(pipe, index, t, state):
        seen.append(int(t))
        pipe._interrupt = index == 2
        return {"latents": state["latents"] * 0 + 0.25}

    drawn = digits("0", 5, callback_on_step_end=watch, output_type="latent").images
    assert len(seen) == 3 and digits.num_timesteps == 5
    assert torch.equal(drawn, torch.full((1, 1, 8, 8), 0.25))


def test_digits_options_of_a_text_to_image_pipeline(digits):
    pair = digits("4", 3, num_images_per_prompt=2, generator=seeds(1, 2), output_type="latent", return_dict=False)[0]
    single = digits("4", 3, generator=seeds(2), output_type="latent").images
    torch.testing.assert_close(pair[1:], single, atol=1e-5, rtol=0)
    against = digits("4", 3, negative_prompt="9", generator=seeds(2), output_type="latent").images
    assert float((against - single).abs().max()) > 1e-3
    neutral = digits("4", 3, negative_prompt="", generator=seeds(2), output_type="latent").images
    assert torch.equal(neutral, single)
    noisy = digits("4", 3, eta=1.0, generator=seeds(2), output_type="latent").images
    assert float((noisy - single).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": "ten"}, "prompt: 'ten' is not a digit"),
        ({"prompt": "11"}, "prompt: '11' is not a digit"),
        ({"prompt": "1", "output_type": "jpg"}, "output_type: 'jpg'"),
        ({"prompt": "1", "latents": torch.zeros(1, 1, 4, 4)}, r"latents: shape \(1, 1, 4, 4\)"),
    ],
)
def test_digits_bad_arguments_are_named(digits, arguments, message):
    with pytest.raises(ValueError, match=message):
        digits(**arguments)


def test_digits_can_be_saved_and_loaded(digits, tmp_path):
    digits.save_pretrained(tmp_path)
    again = zoo.load("digits", tmp_path)
    pictures = [p("8", 3, generator=seeds(0), output_type="latent").images for p in (digits, again)]
    assert torch.equal(*pictures)


@pytest.mark.slow
def test_digits_trains_with_the_public_function(tmp_path):
    pytest.importorskip("sklearn")
    folder = zoo_training.train("digits", tmp_path, steps=3)
    drawn = zoo.load("digits", folder)(list(WORDS), 2, output_type="pt").images
    assert drawn.shape == (10, 1, 8, 8)
    assert (tmp_path / "loss.png").exists() or not (tmp_path / "log.jsonl").read_text()
    assert json.loads((folder / "captions.json").read_text())["search"] == list(WORDS[::2])


EMOJI = ("emoji-sd", "emoji-flux")


@pytest.mark.parametrize(("name", "kind"), zip(EMOJI, ("StableDiffusionPipeline", "FluxPipeline")))
@pytest.mark.slow
def test_emoji_models_run_in_diffusers_without_hasten(name, kind):
    extra = zoo.call(zoo.folder(name)) | {"output_type": "latent"}
    script = (
        "import json, sys, torch\n"
        "sys.modules['hasten'] = None\n"
        f"from diffusers import {kind} as Pipeline\n"
        "pipe = Pipeline.from_pretrained(sys.argv[1], dtype=torch.float32)\n"
        "extra = json.loads(sys.argv[2])\n"
        "made = pipe('noto red apple', num_inference_steps=2, generator=torch.manual_seed(0), **extra).images\n"
        "print(made.flatten()[:8].tolist())\n"
    )
    command = [sys.executable, "-c", script, str(zoo.folder(name)), json.dumps(extra)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pipe = zoo.load(name)
    made = pipe("noto red apple", num_inference_steps=2, generator=torch.manual_seed(0), **extra).images
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), made.flatten()[:8].tolist(), atol=1e-5)


def test_emoji_flux_ships_with_the_defaults_of_flux():
    pipe = zoo.load("emoji-flux")
    assert type(pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler"
    facts = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    assert facts.items() <= dict(pipe.scheduler.config).items()
    assert inspect.signature(pipe.__call__).parameters["num_inference_steps"].default == 28
    assert [type(part).__name__ for part in (pipe.text_encoder, pipe.text_encoder_2, pipe.transformer)] == [
        "CLIPTextModel", "T5EncoderModel", "FluxTransformer2DModel",
    ]  # fmt: skip
    one = pipe("noto key", num_inference_steps=1, output_type="pt", max_sequence_length=32).images
    assert one.shape == (1, 3, 64, 64)  # the size is known once the zoo has loaded it


def test_emoji_sd_ships_with_the_defaults_of_stable_diffusion():
    pipe = zoo.load("emoji-sd")
    assert type(pipe.scheduler).__name__ == "PNDMScheduler"
    facts = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    facts |= {"skip_prk_steps": True, "set_alpha_to_one": False, "timestep_spacing": "leading"}
    assert facts.items() <= dict(pipe.scheduler.config).items()
    defaults = inspect.signature(pipe.__call__).parameters
    assert (defaults["num_inference_steps"].default, defaults["guidance_scale"].default) == (50, 7.5)
    assert pipe.safety_checker is None and not pipe.config["requires_safety_checker"]
    assert (pipe.vae_scale_factor, pipe.unet.config.sample_size) == (4, 16)


@pytest.mark.parametrize("name", EMOJI)
def test_emoji_models_draw_the_caption_and_not_another(name):
    pipe = zoo.load(name)
    prompts = ["noto red apple", "twemoji green apple", "noto blue heart", "twemoji yellow heart"]
    extra = zoo.call(zoo.folder(name)) | {"output_type": "pt", "num_inference_steps": 20}
    images = pipe(prompts, generator=seeds(0, 1, 2, 3), **extra).images
    assert images.shape == (4, 3, 64, 64)
    red, green, blue = images.mean((2, 3)).unbind(1)
    assert red[0] > green[0] + 0.05 and green[1] > red[1] + 0.02
    assert blue[2] > red[2] + 0.05 and red[3] > blue[3] + 0.1


def test_padding_of_captions_hardly_matters_to_emoji_flux():
    pipe = zoo.load("emoji-flux")
    short, long = (
        pipe("noto red apple", num_inference_steps=8, max_sequence_length=length, output_type="pt",
             generator=torch.manual_seed(0)).images
        for length in (32, 128)
    )  # fmt: skip
    assert float((short - long).square().mean().sqrt()) < 0.1


@pytest.mark.parametrize("name", EMOJI)
def test_emoji_cards_state_what_was_measured(name):
    figures = json.loads((zoo.folder(name) / "evaluation.json").read_text())
    card = (zoo.folder(name) / "README.md").read_text()
    assert figures["psnr"]["value"] >= 28
    assert figures["retrieval"]["top1"]["value"] >= 0.4
    assert f"{figures['psnr']['value']:.2f} dB" in card and f"{figures['retrieval']['top1']['value']:.1%}" in card
    assert f"FD {figures['fd']['value']:.3g}" in card and figures["fd"]["low"] <= figures["fd"]["high"]
    assert "CC-BY 4.0" in card and "Apache" in card and "unseen.png" in card


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("WOMAN’S HAT", "womans hat"),
        ("T-REX", "t rex"),
        ("Antigua & Barbuda Flag", "antigua and barbuda flag"),
        ("KEYCAP: *", "keycap"),
        ("Curaçao Flag", "curaçao flag"),
    ],
)
def test_names_become_plain_words(name, caption):
    assert emoji.simple(name) == caption


def entry(name: str, image: str, category: str = "Objects", **more) -> dict:
    return {"name": name, "image": image, "category": category} | more


def png(colour: tuple[int, int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


def archive(folder: Path, vendor: str, entries: list[dict], pictures: dict[str, bytes]) -> None:
    """A small npm package as `npm pack` leaves it."""
    members = {"emoji.json": json.dumps(entries).encode(), "index.js": b"evil()"}
    members |= {f"img/{vendor}/64/{name}": data for name, data in pictures.items()}
    members |= {f"img/{vendor}/sheets/32.png": b"large"}
    with tarfile.open(folder / f"emoji-datasource-{vendor}-{emoji.VERSION}.tgz", "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def packages(tmp_path) -> Path:
    dark = {"1F3FF": {"image": "1-dark.png"}, "1F3FB-1F3FF": {"image": "missing.png"}}
    entries = [entry("RED HAND", "1.png", "People & Body", skin_variations=dark), entry("KEY", "2.png")]
    pictures = {"1.png": png((255, 0, 0, 255)), "1-dark.png": png((9, 9, 9, 255)), "2.png": png((0, 0, 255, 0))}
    for vendor in emoji.STYLES.values():
        archive(tmp_path, vendor, entries, pictures)
    return tmp_path


def test_the_builder_reads_the_packages(packages):
    found = emoji.emojis(packages)
    captions = ["red hand", "red hand dark skin", "key"]
    assert [e.caption for e in found] == [f"{style} {c}" for style in ("noto", "twemoji") for c in captions]
    unpacked = packages / "emoji-datasource-google"
    assert not (unpacked / "index.js").exists() and not (unpacked / "img/google/sheets").exists()
    assert [e.caption for e in emoji.emojis(packages)] == [e.caption for e in found]
    pictures = emoji.images(found[:3])
    assert pictures.shape == (3, 3, 64, 64)
    corners = pictures[:, :, 0, 0]
    torch.testing.assert_close(corners[0], torch.tensor([1.0, -1.0, -1.0]))
    torch.testing.assert_close(corners[2], torch.ones(3))  # transparent becomes white


def test_missing_data_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(emoji.shutil, "which", lambda name: None)
    with pytest.raises(HastenError, match=r"has no emoji-datasource-google@16.0.0, and npm"):
        emoji.emojis(tmp_path)


def many(count: int = 2000) -> list[emoji.Emoji]:
    return [
        emoji.Emoji(f"thing {i}", style, "Objects" if i % 2 else "Flags", Path("x.png"), skin)
        for i in range(count)
        for style in emoji.STYLES
        for skin in ("", "dark skin")
    ]


def test_no_training_sees_what_is_held_out():
    everything = many()
    held = {e.name for e in everything if e.held_out}
    assert len(held) == pytest.approx(100, abs=30)
    assert all(e.held_out for e in everything if e.name in held)  # both styles and every skin
    for names in (None, 50):
        assert not held & {e.name for e in emoji.choose(everything, names)}


def test_a_portion_is_fixed_and_of_the_cpu_categories():
    portion = emoji.choose(many(), 50)
    assert len({e.name for e in portion}) == 50 and len(portion) == 100
    assert {e.category for e in portion} <= set(emoji.CPU_CATEGORIES)
    assert not any(e.skin for e in portion)
    assert {e.name for e in emoji.choose(many()[::-1], 50)} == {e.name for e in portion}
    assert {e.name for e in portion} < {e.name for e in emoji.choose(many(), 60)}


def test_a_split_keeps_both_styles_of_a_name_together():
    from hasten.zoo_training.export import split_prompts

    halves = split_prompts(emoji.choose(many(), 100))
    things = [{caption.split(" ", 1)[1] for caption in half} for half in (halves["search"], halves["confirm"])]
    assert not things[0] & things[1] and len(things[0] | things[1]) == 100
    assert all(len(half) == 2 * len(set(names)) > 50 for half, names in zip(halves.values(), things, strict=True))


@pytest.mark.parametrize("names", [0, -3, 5000])
def test_an_impossible_portion_is_refused(names):
    with pytest.raises(HastenError, match=f"names: {names} should be between 1 and"):
        emoji.choose(many(), names)


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [("digits", {"steps": 0}, "steps: 0"), ("emoji-sd", {"vae": "nowhere", "names": 1}, "vae: nowhere holds no model")],
)
def test_bad_choices_are_refused_before_training(packages, tmp_path, name, choices, message):
    with pytest.raises(HastenError, match=message):
        zoo_training.train(name, tmp_path / "run", data=packages, **choices)
    assert not (tmp_path / "run").exists()


def test_the_tokenizer_reads_words_and_survives_saving(tmp_path):
    from transformers import CLIPTokenizer

    words = emoji_models.tokenizer(["noto red apple", "noto green apple"] * 20, size=200, length=8)
    words.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    for text in ("noto red apple", "Green APPLE", "a word it never saw", ""):
        assert again(text).input_ids == words(text).input_ids
    ids = words("noto apple", padding="max_length").input_ids
    assert ids[0] == words.bos_token_id and len(ids) == 8 and set(ids[3:]) == {words.eos_token_id}


def test_retrieval_counts_pictures_of_the_same_style(packages):
    names = ["red hand", "key"]
    found = [e for e in emoji.emojis(packages) if not e.skin]

    class Perfect:
        """Draws the caption's own training picture, except that keys become hands."""

        def __call__(self, prompts, generator, output_type):
            pictures = {e.caption: emoji.images([e])[0] / 2 + 0.5 for e in found}
            drawn = torch.stack([pictures[p.replace("key", "red hand")] for p in prompts])
            return type("Result", (), {"images": drawn})

    result = quality.retrieval(Perfect(), found, lambda x: x.mean((2, 3)), count=4)
    assert result["names"] == len(names)
    assert result["top1"]["value"] == 0.5 and result["top1"]["low"] < 0.5 < result["top1"]["high"]
    assert {miss["wanted"].split(" ", 1)[1] for miss in result["misses"]} == {"key"}
    assert all(miss["wanted"].split()[0] == miss["found"].split()[0] for miss in result["misses"])


def test_psnr_is_of_images_in_unit_range():
    class Off(torch.nn.Module):
        def encode(self, x):
            return type("E", (), {"latents": x})

        def decode(self, z):
            return type("D", (), {"sample": z + 0.2})

    estimate, overall = quality.autoencoder_psnr(Off(), torch.zeros(5, 3, 8, 8))
    assert estimate["value"] == pytest.approx(20, abs=1e-4) and overall == pytest.approx(20, abs=1e-4)
    assert estimate["n"] == 5
