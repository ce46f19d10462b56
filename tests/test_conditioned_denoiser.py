"""A pipeline's network as a denoiser: the pipeline's own numbers, rows of their own, gradients, refusals."""

import functools
import warnings
from types import SimpleNamespace

import diffusers
import numpy as np
import pipelines
import pytest
import torch

import hasten
from hasten import sample
from hasten.caches import DeepCache
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.processes import VarianceExploding
from hasten.runtime.adapters import ADAPTERS, Adapted, packed, unpacked, waves
from hasten.runtime.conditions import Conditions
from hasten.runtime.denoiser import Requests, conditioned, conditions
from hasten.runtime.following import AcceleratedDenoiser
from hasten.sampling import sample_many
from hasten.zoo_training import emoji_models

KINDS = ("sd", "sdxl", "sd3", "flux", "pixart", "sana")
TEXTS = ["noto red apple", "twemoji key"]
SIDE = pipelines.SIZE // 2  # of latents


def sana():
    """As the builders of `pipelines`; its autoencoder would be one of 32 pixels a latent."""
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=4, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, sample_size=SIDE,
        caption_channels=pipelines.WIDTH, timestep_scale=0.5,
    )  # fmt: skip
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    )
    return diffusers.SanaPipeline(
        transformer=transformer.eval(), scheduler=scheduler, vae=None, text_encoder=None, tokenizer=None
    )


def make(kind, dtype=torch.float32):
    """A tiny pipeline."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        pipe = sana() if kind == "sana" else pipelines.make(kind)
        pipe.to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def like(network, **changes):
    """A network of the same class with random weights and another config."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = {name: value for name, value in network.config.items() if not name.startswith("_")}
        return type(network)(**own | changes).eval()


@functools.cache
def tiny(kind):
    return make(kind)


def network_of(pipe):
    return getattr(pipe, "unet", None) or pipe.transformer


def given(kind, prompts=2, dtype=torch.float32):
    """What the pipeline is called with, and the same as conditions: of the prompts, and of negative ones."""
    call = pipelines.arguments(tiny(kind), prompts)
    if kind == "sana":
        call |= {"height": 32 * SIDE, "width": 32 * SIDE}
    names = {"prompt_embeds": "encoder_hidden_states", "prompt_attention_mask": "encoder_attention_mask"}
    names["pooled_prompt_embeds"] = "text_embeds" if kind == "sdxl" else "pooled_projections"
    bound, free = {}, {}
    for name in names.keys() & call.keys():
        call[name] = call[name].to(dtype)
        if "mask" in name:
            call[name][0, 3:] = 0
        bound[names[name]] = call[name]
        if f"negative_{name}" in call:
            call[f"negative_{name}"] = call[name].flip(-1) if "mask" not in name else call[name]
            free[names[name]] = call[f"negative_{name}"]
    return call, Conditions(bound), Conditions(free) if free else None


def start(pipe, rows=2, seed=0, dtype=torch.float32):
    network = network_of(pipe)
    channels = network.config.in_channels // (4 if "Flux" in type(pipe).__name__ else 1)
    side = getattr(network.config, "sample_size", None) or SIDE
    return torch.randn(rows, channels, side, side, generator=torch.Generator().manual_seed(seed)).to(dtype)


def solver_of(pipe):
    return "euler" if "flow" in str(pipe.scheduler.config).lower() else "ddim"


def in_pipeline(pipe, noise, call, steps=4):
    """What the accelerated pipeline makes of the noise, and the times at which it asked its network."""
    flux = isinstance(pipe, diffusers.FluxPipeline)
    with hasten.accelerate(pipe, {"solver": solver_of(pipe), "steps": steps}) as fast:
        latents = fast(**call, latents=packed(noise) if flux else noise, output_type="latent").images
        process, numbers = pipe.scheduler.process, pipe.scheduler.timesteps
    latents = unpacked(latents, *noise.shape[-2:]) if flux else latents
    times = np.minimum(process.from_network_time(numbers.double().numpy()), process.t_max)
    return latents, np.append(times, 0.0), process


def assert_same_run(pipe, denoiser, noise, call):
    want, times, process = in_pipeline(pipe, noise, call)
    assert {k: v for k, v in vars(denoiser.process).items() if np.ndim(v) == 0} == pytest.approx(
        {k: v for k, v in vars(process).items() if np.ndim(v) == 0}
    )
    with torch.no_grad():
        got = sample(denoiser, noise * process.start_scale, solver_of(pipe), grid=times)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert float((want - noise).abs().mean()) > 1e-3


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_the_pipelines(kind, scale):
    pipe, (call, bound, free) = tiny(kind), given(kind)
    denoiser = conditioned(pipe, bound, guidance=scale, negative=free, size=(call["height"], call["width"]))
    assert_same_run(pipe, denoiser, start(pipe), {**call, "guidance_scale": scale})


def test_true_guidance_of_flux_is_the_pipelines():
    pipe, (call, bound, _) = tiny("flux"), given("flux")
    free = Conditions({name: tensor.flip(-1) for name, tensor in bound.tensors.items()})
    call |= {"negative_prompt_embeds": free["encoder_hidden_states"], "true_cfg_scale": 3.0, "guidance_scale": 2.0}
    call["negative_pooled_prompt_embeds"] = free["pooled_projections"]
    denoiser = conditioned(pipe, bound, guidance=3.0, negative=free, embedded=2.0, size=(16, 16))
    assert_same_run(pipe, denoiser, start(pipe), call)


@pytest.mark.parametrize(("name", "texts", "more"), [
    ("emoji-sd", TEXTS, {"guidance_scale": 5.0}), ("emoji-flux", TEXTS, {"max_sequence_length": 32}),
    ("digits", ["three", "7"], {"guidance_scale": 2.0}),
])  # fmt: skip
def test_a_run_of_the_zoo_is_the_pipelines(name, texts, more):
    pipe = hasten.load(name)
    encoding = {key: value for key, value in more.items() if key != "guidance_scale"}
    denoiser = conditioned(pipe, texts, guidance=more.get("guidance_scale", 1.0), **encoding)
    noise = start(pipe) if name != "emoji-flux" else torch.randn(2, 4, 16, 16)
    if name == "emoji-flux":
        more = more | {"height": 64, "width": 64}
    assert_same_run(pipe, denoiser, noise, {"prompt": texts, **more})


@functools.cache
def words():
    """A tokenizer and an encoder in the place of T5's, or Gemma's."""
    tokenizer = emoji_models.t5_tokenizer(TEXTS * 20, size=40)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {"tokenizer": tokenizer, "text_encoder": emoji_models.t5_encoder(tokenizer, 8).eval()}


def spoken(kind):
    """A tiny pipeline with encoders."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        if kind in ("sdxl", "sd3"):
            (tokenizer, encoder), (_, other) = pipelines.clip(kind == "sd3"), pipelines.clip(True)
            parts = {"tokenizer": tokenizer, "tokenizer_2": tokenizer, "text_encoder": encoder, "text_encoder_2": other}
        else:
            parts = words()
        width = {"cross_attention_dim": 16} if kind == "sdxl" else {"joint_attention_dim": 16}
        pipe = tiny(kind)
        if kind in ("sdxl", "sd3"):
            pooled = {} if kind == "sdxl" else {"pooled_projection_dim": 16}
            parts["unet" if kind == "sdxl" else "transformer"] = like(network_of(pipe), **width, **pooled)
        extra = {"requires_safety_checker": False} if kind == "sd" else {}
        pipe = type(pipe)(**{**pipe.components, **parts}, **extra)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("negative", [None, "k e y"])
@pytest.mark.parametrize("kind", ["sdxl", "sd3", "pixart", "sana"])
def test_texts_are_encoded_as_the_pipelines_call_does(kind, negative):
    """Also what it takes where no negative prompt is given (zeros in SDXL), and Sana's instruction before prompts."""
    pipe, texts = spoken(kind), ["red apple", "key"]
    shorter = {"complex_human_instruction": ["in one word: "]} if kind == "sana" and negative else {}
    denoiser = conditioned(pipe, texts, guidance=4.0, negative=negative, **shorter)
    call = (
        shorter
        | {"prompt": texts, "guidance_scale": 4.0}
        | ({} if negative is None else {"negative_prompt": [negative] * 2})
    )
    if kind in ("pixart", "sana"):
        call["use_resolution_binning"] = False
        size = (pipe.vae_scale_factor * SIDE,) * 2
        call |= {"height": size[0], "width": size[1]}
    assert_same_run(pipe, denoiser, start(pipe), call)


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_of_a_batch_fares_as_alone(kind):
    """With prompts, scales and times of its own; and requests can be cut out, mixed and joined again."""
    pipe, (_, bound, free) = tiny(kind), given(kind, 3)
    denoiser = conditioned(pipe, bound, guidance=[3.0, 1.0, 7.5], negative=free)
    process, x = denoiser.process, start(pipe, 3)
    t = process.t_max * np.array([0.9, 0.5, 0.2])
    with torch.no_grad():
        together = denoiser(x, t)
        alone = [denoiser.rows([i]) for i in range(3)]
        for i, one in enumerate(alone):
            assert len(one) == 1
            single = one(x[i : i + 1], float(t[i]))
            torch.testing.assert_close(together.output[i : i + 1], single.output, rtol=1e-5, atol=1e-5)
        again = alone[2].joined(alone[0], alone[1])(x[[2, 0, 1]], t[[2, 0, 1]])
    torch.testing.assert_close(again.output, together.output[[2, 0, 1]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_scales_and_times_matter(kind):
    """Else equal rows would prove nothing."""
    pipe, (_, bound, free) = tiny(kind), given(kind)
    x, ask = start(pipe, 1), functools.partial(conditioned, pipe, negative=free and free.rows([0]))
    with torch.no_grad():
        t = 0.5 * ask(bound.rows([0])).process.t_max
        base = ask(bound.rows([0]), guidance=3.0)(x, t).output
        others = [ask(bound.rows([1]), guidance=3.0)(x, t), ask(bound.rows([0]), guidance=5.0)(x, t),
                  ask(bound.rows([0]), guidance=3.0)(x, 0.8 * t)]  # fmt: skip
    for other in others:
        assert float((other.output - base).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_differences(kind):
    """Along one direction in states, all parameters, conditions and scales at once."""
    pipe, (_, bound, free) = make(kind, torch.float64), given(kind, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    own = {"x": start(pipe, dtype=torch.float64), "embeds": bound["encoder_hidden_states"].clone(),
           "guidance": torch.tensor([2.0, 3.0], dtype=torch.float64)}  # fmt: skip
    leaves = {name: value.requires_grad_() for name, value in own.items()} | dict(network_of(pipe).named_parameters())
    along = {k: torch.randn(v.shape, generator=generator, dtype=torch.float64) for k, v in leaves.items()}

    if kind == "flux":  # embeds 1000 times the scale, in float32: too steep for differences
        along["guidance"].zero_()

    def loss():
        known = Conditions({**bound.tensors, "encoder_hidden_states": leaves["embeds"]})
        denoiser = conditioned(pipe, known, guidance=leaves["guidance"], negative=free)
        return denoiser(leaves["x"], np.array([0.3, 0.6]) * denoiser.process.t_max).data.square().mean()

    @torch.no_grad()
    def moved(step):
        for name, value in leaves.items():
            value.add_(along[name], alpha=step)
        there = float(loss())
        for name, value in leaves.items():
            value.sub_(along[name], alpha=step)
        return there

    found = dict(zip(leaves, torch.autograd.grad(loss(), list(leaves.values()), allow_unused=True)))
    reached = [name for name, gradient in found.items() if gradient is not None and gradient.any()]
    assert {*own} < {*reached} and len(reached) > len(leaves) / 2
    slope = sum(float((found[name] * along[name]).sum()) for name in reached)
    assert slope == pytest.approx((moved(3e-5) - moved(-3e-5)) / 6e-5, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_without_guidance_the_network_sees_each_row_once(kind):
    pipe, (_, bound, free) = tiny(kind), given(kind)
    rows = []
    hook = network_of(pipe).register_forward_hook(lambda *a: rows.append(len(a[2][0])))
    with torch.no_grad():
        for scale in (1.0, [1.0, 1.0], [1.0, 2.0]):
            conditioned(pipe, bound, guidance=scale, negative=free)(start(pipe), 0.5)
    hook.remove()
    assert rows == [2, 2, 2 if kind == "flux" else 4]


def test_runs_with_prompts_of_their_own_share_calls():
    """`sample_many` with a denoiser a run: at different steps, each comes out as alone."""
    pipe, (_, bound, free) = tiny("sd"), given("sd", 3)
    parts = [conditioned(pipe, bound.rows(rows), guidance=scale, negative=free.rows([0]))
             for rows, scale in (([0], 3.0), ([1, 2], [1.0, 5.0]), ([2], 1.0))]  # fmt: skip
    runs = [{"noise": start(pipe, rows, rows), "steps": steps} for rows, steps in ((1, 5), (2, 3), (3, 4))]
    with torch.no_grad():
        got = sample_many(Requests(parts), runs)
        for one, run, part in zip(got, runs, parts):
            torch.testing.assert_close(one, sample(part, **run), rtol=1e-4, atol=1e-4)


def test_accelerations_work_under_it():
    pipe, (_, bound, free) = tiny("sd"), given("sd")
    denoiser, noise = conditioned(pipe, bound, guidance=3.0, negative=free), start(tiny("sd"))
    with torch.no_grad():
        plain = sample(denoiser, noise, steps=6)
        assert torch.equal(sample(AcceleratedDenoiser(pipe.unet, denoiser.on, []), noise, steps=6), plain)
        cached = AcceleratedDenoiser(pipe.unet, denoiser.on, [DeepCache(interval=3)])
        assert not torch.equal(sample(cached, noise, steps=6), plain)
    assert [len(steps) for steps in cached.latest[0].skipped("deepcache")] == [4, 4]


@pytest.mark.parametrize("kind", ["sd", "flux", "sana"])
def test_states_keep_their_dtype_and_the_network_its_own(kind):
    pipe, (_, bound, free) = make(kind, torch.bfloat16), given(kind)
    denoiser = conditioned(pipe, bound, guidance=3.0, negative=free)
    x, exact = start(pipe), conditioned(tiny(kind), bound, guidance=3.0, negative=free)
    with torch.no_grad():
        p = denoiser(x, torch.tensor([0.4, 0.5]) * denoiser.process.t_max)
        torch.testing.assert_close(
            p.output, exact(x, np.array([0.4, 0.5]) * exact.process.t_max).output, rtol=0, atol=0.1
        )
    assert denoiser.dtype == torch.bfloat16 and p.output.dtype == torch.float32


def test_an_edm_network_is_shown_scaled_states_and_read_as_the_pipeline_reads_it():
    pipe, (call, bound, free) = make("sdxl"), given("sdxl")
    pipe.scheduler = diffusers.EDMEulerScheduler()
    denoiser = conditioned(pipe, bound, guidance=3.0, negative=free)
    assert isinstance(denoiser.process, VarianceExploding)
    noise = start(pipe)
    assert_same_run(pipe, denoiser, noise, {**call, "guidance_scale": 3.0})
    with torch.no_grad():
        rows = denoiser(noise, np.array([2.0, 7.0])).data
        torch.testing.assert_close(rows[1:], denoiser.rows([1])(noise[1:], 7.0).data, rtol=1e-4, atol=1e-4)


def test_at_its_lowest_level_a_consistency_model_answers_with_the_state():
    pipe, (_, bound, _) = make("sd"), given("sd")
    pipe.scheduler = diffusers.CMStochasticIterativeScheduler(sigma_min=0.02, sigma_max=80.0, clip_denoised=False)
    denoiser = conditioned(pipe, bound, guidance=1.0).rows([0])
    lowest, higher = (float(denoiser.process.time(-np.log(level))) for level in (0.02, 0.2))
    with torch.no_grad():
        noise = start(pipe)[:1]
        torch.testing.assert_close(denoiser(noise, lowest).data, noise)
        assert not torch.allclose(denoiser(noise, higher).data, noise, atol=0.01)


def test_a_consistency_unet_is_shown_the_scale():
    pipe, (call, bound, _) = make("sd"), given("sd")
    pipe.unet = like(pipe.unet, time_cond_proj_dim=9)
    want = pipe.get_guidance_scale_embedding(torch.tensor([1.5, 7.0]), 9)
    torch.testing.assert_close(waves(torch.tensor([1.5, 7.0]), 9), want, rtol=1e-4, atol=1e-4)
    call = {name: value for name, value in call.items() if "negative" not in name}
    assert_same_run(pipe, conditioned(pipe, bound, guidance=8.0), start(pipe), {**call, "guidance_scale": 8.0})


def test_the_alpha_of_pixart_is_shown_the_size():
    pipe, (call, bound, free) = tiny("pixart"), given("pixart")
    changes = {"use_additional_conditions": True, "attention_head_dim": 6, "cross_attention_dim": 12}
    network = like(pipe.transformer, **changes, sample_size=128)
    pipe = diffusers.PixArtAlphaPipeline(
        vae=pipe.vae, transformer=network, scheduler=pipe.scheduler, text_encoder=None, tokenizer=None
    )
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(2, 4, SIDE, SIDE + 4)
    call |= {"height": SIDE * 2, "width": SIDE * 2 + 8, "guidance_scale": 3.0}
    assert_same_run(pipe, conditioned(pipe, bound, guidance=3.0, negative=free), noise, call)


def test_sizes_of_sdxl_can_be_given_by_row():
    pipe, (_, bound, _) = tiny("sdxl"), given("sdxl")
    own = Conditions({**bound.tensors, "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16], [64, 64, 8, 0, 16, 16]])})
    with torch.no_grad():
        plain, sized = (conditioned(pipe, known)(start(pipe), 500.0).output for known in (bound, own))
        conditioned(pipe, own, guidance=2.0)(start(pipe), 500.0)  # the negative branch has the sizes as well
    torch.testing.assert_close(sized[0], plain[0])
    assert float((sized[1] - plain[1]).abs().max()) > 1e-2


def test_conditions_are_rows():
    both = Conditions({"a": torch.arange(6.0).reshape(3, 2), "class_labels": torch.arange(3)})
    assert len(both) == 3 and both.rows([2, 0, 2])["class_labels"].tolist() == [2, 0, 2]
    assert both.rows(slice(1, 3))["a"].tolist() == [[2, 3], [4, 5]]
    joined = both.rows([0]).joined(both.rows([2]), both.rows([1]))
    assert joined["class_labels"].tolist() == [0, 2, 1] and both.joined() is both
    cast = both.to(dtype=torch.bfloat16)
    assert cast["a"].dtype == torch.bfloat16 and cast["class_labels"].dtype == torch.int64
    assert both.rows([1]).expanded(4)["class_labels"].tolist() == [1] * 4
    with pytest.raises(HastenError, match=r"rows: 3 is not possible; there are rows 0 to 2"):
        both.rows([3])
    with pytest.raises(HastenError, match="cannot join"):
        both.joined(Conditions({"a": torch.zeros(1, 3), "class_labels": torch.arange(1)}))
    for wrong in ({}, {"a": torch.zeros(2), "b": torch.zeros(3)}, {"a": torch.zeros(())}, {"a": torch.zeros(0, 2)}):
        with pytest.raises(HastenError, match=r"conditions: .* one row a prompt"):
            Conditions(wrong)


def test_a_network_is_adapted_for_objectives():
    pipe, (_, bound, _) = tiny("flux"), given("flux")
    module, x, number = Adapted(pipe.transformer), start(pipe), torch.tensor([500.0, 900.0])
    assert all(name.startswith("transformer.") for name in module.state_dict())
    scale = torch.tensor([2.0, 2.0])
    denoiser = conditioned(pipe, bound, guidance=2.0)
    with torch.no_grad():
        want = denoiser(x, denoiser.process.from_network_time(number.numpy())).output
        torch.testing.assert_close(module(x, number, guidance=scale, **bound.tensors), want)
    assert torch.equal(unpacked(packed(x), SIDE, SIDE), x)
    assert torch.equal(packed(x), diffusers.FluxPipeline._pack_latents(x, *x.shape))


def of(kind="sd", prompts=2, **arguments):
    return lambda: conditioned(tiny(kind), given(kind, 2)[1].rows(list(range(prompts))), **arguments)


def asked(x, t, **arguments):
    return lambda: conditioned(tiny("sd"), given("sd")[1], **arguments)(x, t)


@pytest.mark.parametrize(("make_it", "message"), [
    (of(guidance=-1.0), "guidance: -1.0 is not possible; give a scale of at least 0"),
    (of(guidance=[1.0, float("nan")]), "guidance: nan is not possible"),
    (of(guidance=float("inf")), "guidance: inf is not possible"),
    (of(guidance=[]), "guidance: \\[\\] is not possible"),
    (of(guidance=[1.0, 2.0, 3.0]), "guidance: 3 do not suit 2 of prompts; give one, or one a row"),
    (of(guidance=2.0, negative=["a", "b", "c"]), "negative: 3 do not suit 2 of prompts"),
    (of(embedded=2.0), "embedded: 2.0 is not possible; UNet2DConditionModel is shown no scale"),
    (of("flux", negative=given("flux")[1]), "embedded: None is not possible with negative prompts"),
    (of("flux", guidance=2.0, embedded=3.0), "negative: None is not possible; FluxTransformer2DModel guides by the"),
    (asked(torch.zeros(3, 4, 8, 8), 5.0), "x: 3 rows do not suit 2 prompts"),
    (asked(torch.zeros(2, 4, 8, 8), np.ones(3)), r"t: \(3,\) times do not suit 2 rows"),
    (lambda: conditioned(tiny("sd"), []), r"prompts: \[\] is not possible; give a text, or one a row"),
    (lambda: conditioned(tiny("sd"), "a", clip=2), "StableDiffusionPipeline.encode_prompt: 'clip' is not known"),
    (lambda: conditioned(tiny("sd3"), "a"), "prompts: 'a' is text, and this pipeline has no text encoder"),
    (lambda: of("flux", 1)()(torch.zeros(1, 1, 7, 8), 0.5), "x: 7x8 is not possible"),
    (lambda: of()().joined(of("pixart")()), "joined: requests of another network or process"),
    (lambda: of()().on(tiny("sdxl").unet), "model: UNet2DConditionModel is not called as the network it should"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(make_it, message):
    with pytest.raises(HastenError, match=message) as refused:
        make_it()
    assert "\n" not in str(refused.value)


def test_other_networks_are_refused_by_name():
    class Other(torch.nn.Module):
        pass

    kinds = {kind for kind, _ in ADAPTERS}
    with pytest.raises(UnsupportedModel, match="model: Other is not supported here; supported networks are") as said:
        conditioned(SimpleNamespace(transformer=Other()), "a")
    assert all(kind in str(said.value) for kind in kinds)
    with pytest.raises(UnsupportedModel, match="SimpleNamespace has no unet, transformer"):
        conditioned(SimpleNamespace(), "a")
    with pytest.raises(UnsupportedModel, match=r"StableDiffusionControlNetPipeline shows its network pictures \(contr"):
        conditioned(pipelines.make("controlnet"), "a")
    for changes, message in [
        ({"in_channels": 9}, "is shown 9 channels and answers 4"),
        ({"num_class_embeds": 5}, "num_class_embeds=5: this network is shown more than text"),
        ({"addition_embed_type": "text", "encoder_hid_dim": 8}, "with addition_embed_type='text' is not supported"),
    ]:
        with pytest.raises(UnsupportedModel, match=message):
            Adapted(like(tiny("sd").unet, **changes))
    with pytest.raises(UnsupportedModel, match="guidance_embeds=True"):
        Adapted(like(tiny("sana").transformer, guidance_embeds=True))


def test_prompts_can_be_encoded_once():
    pipe = tiny("sd")
    known = conditions(pipe, ["a", "b c"])
    assert len(known) == 2 and not known["encoder_hidden_states"].requires_grad
    one, other = conditioned(pipe, known, guidance=2.0), conditioned(pipe, ["a", "b c"], guidance=2.0)
    with torch.no_grad():
        assert torch.equal(one(start(pipe), 500.0).output, other(start(pipe), 500.0).output)
