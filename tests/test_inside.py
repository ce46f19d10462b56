"""What may happen while something is applied to a pipeline, and what it is afterwards."""

import contextlib
import copy
import gc
import pickle
import warnings
import weakref

import diffusers
import pytest
import torch
from pipelines import call, make
from tiny import fingerprint
from torch import nn

import hasten
from hasten.core.errors import HastenError, UnsupportedModel

peft = pytest.importorskip("peft")
DEEP = {"caches": [{"name": "deepcache", "interval": 2}]}
RECIPES = [DEEP, {"quantize": "bfloat16"}, {"solver": "dpm++", "caches": ["deepcache"]}]


def adapted(*names):
    pipe = make("sd")
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        config = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
        pipe.unet.add_adapter(config, name)
    return pipe


CHANGES = {
    "set_adapters": lambda pipe: pipe.set_adapters(["a"]),
    "weights": lambda pipe: pipe.set_adapters(["a", "b"], adapter_weights=[0.2, 0.9]),
    "delete_adapters": lambda pipe: (pipe.set_adapters(["a"]), pipe.delete_adapters("b")),
    "fuse_lora": lambda pipe: pipe.fuse_lora(),
    "disable_lora": lambda pipe: pipe.disable_lora(),
    "network set_adapters": lambda pipe: pipe.unet.set_adapters(["b"]),
    "network disable_adapters": lambda pipe: pipe.unet.disable_adapters(),
    "to": lambda pipe: pipe.to(torch.float64),
    "network to": lambda pipe: pipe.unet.to(memory_format=torch.channels_last),
    "free_u": lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.2, 1.4),
    "processor": lambda pipe: pipe.unet.set_attn_processor(diffusers.models.attention_processor.AttnProcessor()),
    "scheduler": lambda pipe: setattr(
        pipe, "scheduler", diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    ),
    "network": lambda pipe: setattr(pipe, "unet", adapted("a").unet),
}


@pytest.mark.parametrize("recipe", RECIPES, ids=["cache", "bfloat16", "solver"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_inside_is_made_of_the_pipeline_itself(change, recipe):
    """Afterwards the pipeline is what the change makes of the plain one; inside it is that, accelerated."""
    plain, pipe, beside = (adapted("a", "b") for _ in range(3))
    CHANGES[change](plain)
    CHANGES[change](beside)
    expected = call(plain)  # where the recipe does not fit any more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with contextlib.suppress(UnsupportedModel), hasten.accelerate(beside, recipe):
            expected = call(beside)
        with hasten.accelerate(pipe, recipe):
            call(pipe)
            CHANGES[change](pipe)
            inside = call(pipe)
    assert torch.equal(inside, expected)
    assert torch.equal(call(pipe), call(plain))
    assert type(pipe) is type(plain) and vars(pipe).keys() == vars(plain).keys()


def test_adapters_can_be_loaded_inside_and_stay():
    plain, pipe = adapted(), adapted()
    state = peft.get_peft_model_state_dict(adapted("a").unet, adapter_name="a")
    plain.load_lora_weights({f"unet.{k}": v for k, v in state.items()}, adapter_name="new")
    with hasten.accelerate(pipe, DEEP):
        pipe.load_lora_weights({f"unet.{k}": v for k, v in state.items()}, adapter_name="new")
        assert pipe.get_active_adapters() == ["new"]
    assert torch.equal(call(pipe), call(plain)) and not torch.equal(call(pipe), call(adapted()))


@pytest.mark.parametrize("first", [False, True], ids=["inside", "before"])
def test_layerwise_casting_is_carried(first):
    def cast(pipe):
        pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)

    plain, pipe = make("sd"), make("sd")
    cast(plain)
    if first:
        cast(pipe)
    with hasten.accelerate(pipe, {"caches": [{"name": "cache", "gate": {"name": "every", "interval": 1}}]}):
        if not first:
            cast(pipe)
        assert torch.equal(call(pipe), call(plain))
    assert torch.equal(call(pipe), call(plain))
    assert next(pipe.unet.parameters()).dtype == next(plain.unet.parameters()).dtype


def test_weights_that_are_moved_when_needed_are_followed():
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    plain, pipe = make("sd"), make("sd")
    for module in pipe.unet.modules():
        if not list(module.children()) and list(module.parameters()):
            add_hook_to_module(module, AlignDevicesHook("cpu", offload=True))
    assert next(pipe.unet.parameters()).is_meta
    with hasten.accelerate(plain, DEEP), hasten.accelerate(pipe, DEEP):
        assert torch.equal(call(pipe), call(plain))
    assert torch.equal(call(pipe), call(plain)) and next(pipe.unet.parameters()).is_meta
    with pytest.raises(HastenError, match="AlignDevicesHook decides where and how"):
        hasten.accelerate(pipe, {"quantize": "bfloat16"})


def test_models_that_are_offloaded_from_inside_are_followed():
    plain, pipe = make("sd"), make("sd")
    with hasten.accelerate(plain, DEEP), hasten.accelerate(pipe, DEEP):
        pipe.enable_model_cpu_offload(device="cpu")
        assert torch.equal(call(pipe), call(plain))
    assert torch.equal(call(pipe), call(plain))


def test_a_part_that_no_longer_fits_is_left_out_with_a_warning():
    pipe = make("sd")
    with hasten.accelerate(pipe, {"quantize": "bfloat16"}):
        with pytest.warns(UserWarning, match="bfloat16 is no longer applied, since the pipeline was changed: quantize"):
            pipe.to(torch.bfloat16)
        call(pipe)
    assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.bfloat16
    call(pipe)


def test_what_others_see_is_the_plain_pipeline(tmp_path):
    pipe = make("sd")
    plain = call(pipe)
    with hasten.accelerate(pipe, {"quantize": "bfloat16", "solver": "dpm++"}) as fast:
        other = type(make("img2img")).from_pipe(pipe)
        assert other.unet.dtype == torch.float32 and type(other.scheduler).__name__ == "PNDMScheduler"
        same = diffusers.StableDiffusionPipeline(**pipe.components)
        same.set_progress_bar_config(disable=True)
        assert torch.equal(call(same), plain)
        pipe.save_pretrained(tmp_path / "inside")
        pipe.unet.save_pretrained(tmp_path / "network")
        fast.unet.save_pretrained(tmp_path / "again")
        restored = pickle.loads(pickle.dumps(pipe.unet))
        assert type(restored) is diffusers.UNet2DConditionModel and restored.dtype == torch.float32
    pipe.save_pretrained(tmp_path / "outside")
    for name in ("unet", "scheduler"):
        for file in (tmp_path / "outside" / name).iterdir():
            assert file.read_bytes() == (tmp_path / "inside" / name / file.name).read_bytes()
    assert torch.equal(call(same), plain)


def test_a_copy_is_accelerated_as_well_and_stays_so():
    pipe = make("sd")
    with hasten.accelerate(pipe, DEEP) as fast:
        fast_image = call(fast)
        twin, again = copy.deepcopy(pipe), copy.deepcopy(fast)
        assert torch.equal(call(twin), fast_image) and torch.equal(call(again), fast_image)
    plain = call(pipe)
    assert torch.equal(call(twin), fast_image) and torch.equal(call(again), fast_image)
    again.restore()
    assert torch.equal(call(again.pipe), plain) and not torch.equal(plain, fast_image)
    with pytest.raises(HastenError, match="pickle: an accelerated pipeline is not pickled"):
        pickle.dumps(fast)


def test_what_the_user_compiled_runs_where_nothing_inside_has_changed():
    ran = [0]

    def backend(graph, _):
        def run(*args):
            ran[0] += 1
            return graph(*args)

        return run

    pipe = make("flux")
    pipe.transformer.compile_repeated_blocks(backend=backend)
    call(pipe)
    plain = ran[0]
    with hasten.accelerate(pipe, {"caches": [{"name": "cache", "gate": {"name": "every", "interval": 2}}]}):
        call(pipe)
    assert plain < ran[0] < 2 * plain
    before = ran[0]
    lost = pytest.warns(UserWarning, match="what you compiled of transformer .* does not run")
    with lost, hasten.accelerate(pipe, {"caches": ["fora"]}):
        call(pipe)
    assert ran[0] == before
    call(pipe)
    assert ran[0] == before + plain


def test_a_second_recipe_on_the_same_pipeline_is_refused():
    pipe = make("sd")
    before = fingerprint(pipe)
    with hasten.accelerate(pipe, DEEP), pytest.raises(HastenError, match="accelerated already"):
        hasten.accelerate(pipe, {"solver": "dpm++"})
    assert fingerprint(pipe) == before


@pytest.mark.parametrize(
    "recipe", [*RECIPES, {"guidance": {"name": "reuse", "interval": 2}}, {"caches": ["sada"]}], ids=str
)
def test_leaving_frees_views_without_the_garbage_collector(recipe):
    pipe = make("sd")
    gc.collect()
    gc.disable()
    try:
        with hasten.accelerate(pipe, recipe) as fast:
            call(fast)
            view = weakref.ref(pipe.unet)
            inner = weakref.ref(pipe.unet.mid_block)
        del fast
        assert view() is None and inner() is None
    finally:
        gc.enable()


def test_a_change_while_the_pipeline_runs_is_its_own_business():
    pipe = make("sd")
    plain = call(pipe)

    def at_the_end_of_a_step(pipe, step, t, kwargs):
        pipe.unet.requires_grad_(False)
        return kwargs

    with hasten.accelerate(pipe, {"caches": [{"name": "cache", "gate": {"name": "every", "interval": 1}}]}):
        assert torch.equal(call(pipe, callback_on_step_end=at_the_end_of_a_step), plain)
    assert isinstance(pipe.unet, nn.Module) and torch.equal(call(pipe), plain)
