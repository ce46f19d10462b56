"""The behaviour matrix: every acceleration that is listed, through the same checks, in every pipeline and solver."""

import gc
import itertools
import json
import os
import subprocess
import sys
import weakref
from contextlib import ExitStack
from importlib.util import find_spec

import pytest
import torch
from pipelines import KINDS, arguments, call, make
from tiny import fingerprint, part
from working import WORKING

import hasten
from hasten.bridge import SolverScheduler
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.recipe import FAMILIES
from hasten.runtime.acceleration import Acceleration, Phase, ordered
from hasten.runtime.anatomy import network_name, network_of
from hasten.solvers import all as all_solvers

MISSING = {"cache-dit"} if find_spec("cache_dit") is None else set()  # an optional extra
MISSING |= {"torch-compile"}  # tracing every network of every test takes hours: tests/test_execution.py has its own
FIELDS = {cls: field for field, registry in FAMILIES.items() for cls in registry}  # of a recipe
METHODS = [
    pytest.param(
        FAMILIES[field].build({"name": cls.name} | WORKING.get(cls.name, {})),
        id=cls.name,
    )
    for cls, field in FIELDS.items()
    if cls.name not in MISSING
]
EXACT = {"channels-last"}  # may change nothing at all
ROUNDING = {"bfloat16": 2e-2, "float16": 5e-3}  # relative, by which images may differ with the size of the batch
every_method = pytest.mark.parametrize("method", METHODS)


def takes(method: Acceleration, pipe) -> bool:
    try:
        method.check(network_of(pipe))
    except UnsupportedModel:
        return False
    return True


FEW = ("sd", "flux")  # kinds of pipelines that are always tried; the others if slow


def pipelines(method: Acceleration, kinds=KINDS) -> list:
    """One of each of these kinds that has what the method needs, or the first of all that has."""
    suited = [pipe for pipe in map(make, kinds) if takes(method, pipe)]
    return suited or [next(pipe for pipe in map(make, KINDS) if takes(method, pipe))]


every_kind = pytest.mark.parametrize("kinds", [FEW, pytest.param(KINDS, marks=pytest.mark.slow)], ids=["few", "all"])


def off(method: Acceleration) -> Acceleration:
    if not method.off and method.phase in (Phase.QUANTIZE, Phase.COMPILE):
        pytest.skip("no setting turns it off")
    assert method.off, "say at which settings nothing changes"
    return type(method)(**method.off)


def changes(method: Acceleration, one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether a method's images differ from others as they should: all but those of `EXACT` must."""
    return method.name in EXACT or not torch.equal(one, other)


def with_solver(pipe, solver):
    pipe.scheduler = SolverScheduler.from_config(pipe.scheduler.config, solver=solver)
    return pipe


class Interrupted(Exception): ...


def interrupted_call(pipe) -> None:
    """A call in which the network raises half way through its second full forward, before the decoder's end."""
    calls = []

    def raises(*_):
        calls.append(0)
        if len(calls) == 2:
            raise Interrupted

    network = network_of(pipe)
    last = getattr(network, "conv_out", None) or network.proj_out
    handle = last.register_forward_hook(raises)
    try:
        with pytest.raises(Interrupted):
            call(pipe)
    finally:
        handle.remove()


@every_method
@every_kind
def test_undo_is_exact(method, kinds):
    for pipe in pipelines(method, kinds):
        plain = call(pipe)
        before = fingerprint(pipe)
        with method.applied(pipe):
            assert fingerprint(pipe) != before
            changed = call(pipe)
        assert fingerprint(pipe) == before
        assert changes(method, changed, plain), "the example must do something, or this test shows nothing"
        with method.applied(pipe):
            interrupted_call(pipe)
        assert fingerprint(pipe) == before
        with pytest.raises(Interrupted), method.applied(pipe):
            raise Interrupted
        assert fingerprint(pipe) == before
        assert torch.equal(call(pipe), plain)


@every_method
@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_is_one_line_and_touches_nothing(method, kind):
    pipe = make(kind)
    if takes(method, pipe):
        pytest.skip(f"{method.name} takes this pipeline")
    before = fingerprint(pipe)
    with pytest.raises(UnsupportedModel) as caught, method.applied(pipe):
        pytest.fail("a network that lacks what is needed was accepted")
    message = str(caught.value)
    assert "\n" not in message and type(network_of(pipe)).__name__ in message and ";" in message
    assert fingerprint(pipe) == before
    field = FIELDS[type(method)]
    with pytest.raises(UnsupportedModel, match=type(network_of(pipe)).__name__):
        hasten.accelerate(pipe, hasten.Recipe(solver="ddim", **{field: FAMILIES[field].describe(method)}))
    assert fingerprint(pipe) == before


@every_method
@every_kind
def test_off_is_exact(method, kinds):
    for pipe in pipelines(method, kinds):
        plain = call(pipe, prompts=2)
        with off(method).applied(pipe):
            assert torch.equal(call(pipe, prompts=2), plain)


@every_method
@every_kind
def test_every_call_is_the_same(method, kinds):
    for pipe in pipelines(method, kinds):
        with method.applied(pipe):
            first = call(pipe)
            call(pipe, prompts=3, steps=2)  # another number of images and steps
            interrupted_call(pipe)
            assert torch.equal(call(pipe), first)
        with method.applied(pipe):
            assert torch.equal(call(pipe), first)


@every_method
@every_kind
def test_a_batch_equals_its_singles(method, kinds):
    if getattr(method, "pools", False):
        pytest.skip("decides for a whole batch at once, and says so")
    for pipe in pipelines(method, kinds):
        three = arguments(pipe, 3)

        def image(i: int, three=three) -> dict:
            return {k: v[i : i + 1] if isinstance(v, torch.Tensor) and len(v) == 3 else v for k, v in three.items()}

        def generators(*seeds: int) -> list:
            return [torch.Generator().manual_seed(seed) for seed in seeds]

        with method.applied(pipe):
            batch = call(pipe, prompts=3, generator=generators(0, 1, 2))
            singles = torch.cat([call(pipe, generator=generators(i), **image(i)) for i in range(3)])
        assert (batch - singles).abs().max() <= ROUNDING.get(method.name, 1e-5) * batch.abs().max()


SOLVERS = [s for s in all_solvers() if not s().adaptive]
KINDS_OF_SOLVER = {"ddim", "unipc", "heun", "edm"}  # one query a step, with a corrector, two queries, with noise
KINDS_OF_METHOD = {"deepcache", "sada", "interval"}


@pytest.mark.parametrize(
    ("method", "solver"),
    [
        pytest.param(
            *method.values,
            solver,
            id=f"{method.id}-{solver.name}",
            marks=[]
            if solver.name == "unipc" or {method.id, solver.name} <= KINDS_OF_METHOD | KINDS_OF_SOLVER
            else [pytest.mark.slow],
        )
        for method in METHODS
        for solver in SOLVERS
        if method.id in KINDS_OF_METHOD or solver.name in KINDS_OF_SOLVER
    ],
)
def test_every_solver(method, solver):
    def seeded(pipe, **arguments):
        torch.manual_seed(0)  # transformers' pipelines leave the noise of a step to torch
        return call(pipe, **arguments)

    for pipe in (with_solver(pipe, solver()) for pipe in pipelines(method)[:1]):
        plain = seeded(pipe, prompts=2, steps=5)
        before = part(fingerprint(pipe), network_name(pipe))
        with method.applied(pipe):
            changed = seeded(pipe, prompts=2, steps=5)
            seeded(pipe, steps=3)
            assert torch.equal(seeded(pipe, prompts=2, steps=5), changed)
        assert changes(method, changed, plain)
        assert part(fingerprint(pipe), network_name(pipe)) == before
        if method.off:
            with off(method).applied(pipe):
                assert torch.equal(seeded(pipe, prompts=2, steps=5), plain)


@every_method
def test_json_round_trip_is_exact(method):
    field = FIELDS[type(method)]
    for one in (method, type(method)(), type(method)(**method.off)):
        described = json.loads(json.dumps(FAMILIES[field].describe(one), allow_nan=False))
        assert FAMILIES[field].build(described) == one
        recipe = hasten.Recipe(**{field: described})
        assert recipe.accelerations == [one] and hasten.Recipe.from_json(recipe.to_json()) == recipe


@every_method
@every_kind
def test_a_pipeline_that_shares_the_network_is_untouched(method, kinds):
    for pipe in pipelines(method, kinds):
        other = type(pipe)(**pipe.components)
        other.set_progress_bar_config(disable=True)
        name = network_name(pipe)
        plain = call(other)
        before = part(fingerprint(other), name)
        meanwhile = []

        with method.applied(pipe):
            alone = call(pipe)
            # the other runs to its end in the middle of this one's second network call
            calls = []

            def inside(*_, other=other, meanwhile=meanwhile, calls=calls):
                calls.append(0)
                if len(calls) == 2:
                    meanwhile.append(call(other))

            handle = network_of(pipe).register_forward_pre_hook(inside)
            other.scheduler = type(other.scheduler).from_config(other.scheduler.config)
            assert torch.equal(call(pipe), alone)
            handle.remove()
            assert torch.equal(meanwhile[0], plain)
            assert part(fingerprint(other), name) == before


@every_method
def test_text_to_image_after_image_to_image_remembers_nothing(method):
    text, image = make("sd"), make("img2img")
    if not takes(method, text):
        pytest.skip("not for U-Nets")
    with method.applied(text):
        image.unet, image.scheduler = text.unet, text.scheduler  # both through one accelerated network
        begun = call(image)
    with method.applied(text):
        fresh = call(text)
        image.unet, image.scheduler = text.unet, text.scheduler
        assert torch.equal(call(image), begun)
        assert torch.equal(call(text), fresh)


@every_method
@every_kind
def test_applied_twice_is_refused_and_the_first_goes_on(method, kinds):
    for pipe in pipelines(method, kinds):
        with method.applied(pipe):
            first = call(pipe)
            before = fingerprint(pipe)
            with pytest.raises(HastenError, match=f"{method.name}: is applied"), method.applied(pipe):
                pytest.fail("applied twice")
            assert fingerprint(pipe) == before
            assert torch.equal(call(pipe), first)


ON_UNETS = [method for method in METHODS if takes(method.values[0], make("sd"))]
FIRST = {method.values[0].phase: method for method in reversed(ON_UNETS)}  # of each phase, the first that is listed


def pairs() -> list:
    """Every method with the first of each phase and with the next of its own, both ways round; all pairs if slow.

    The number of those that are always tried grows with the number of methods, not with its square.
    """
    following = dict(itertools.pairwise(m.id for m in sorted(ON_UNETS, key=lambda m: m.values[0].phase)))
    ordinary = {frozenset((method.id, first.id)) for method in ON_UNETS for first in FIRST.values()}
    ordinary |= {frozenset(pair) for pair in following.items()}
    return [
        pytest.param(
            *one.values, *other.values, id=f"{one.id}-{other.id}",
            marks=[] if {one.id, other.id} in ordinary else [pytest.mark.slow],
        )
        for one, other in itertools.permutations(ON_UNETS, 2)
    ]  # fmt: skip


@pytest.mark.parametrize(("outer", "inner"), pairs())
def test_allowed_orders_compose_and_others_are_refused(outer, inner):
    pipe = make("sd")
    try:
        in_order = ordered([outer, inner]) == [outer, inner]
    except HastenError:
        in_order = False
    plain = call(pipe) if in_order else None
    before = fingerprint(pipe)
    if plain is None:
        refused = pytest.raises(HastenError, match=r"must be applied before|cannot work together")
        with refused, outer.applied(pipe), inner.applied(pipe):
            pytest.fail("the wrong order was accepted")
    else:
        with outer.applied(pipe):
            alone = call(pipe)
            with inner.applied(pipe):
                both = call(pipe)
                assert torch.equal(call(pipe), both) and changes(inner, both, alone)
            assert torch.equal(call(pipe), alone)
        if outer.off and inner.off:
            with ExitStack() as stack:
                for method in (outer, inner):
                    stack.enter_context(off(method).applied(pipe))
                assert torch.equal(call(pipe), plain)
    assert fingerprint(pipe) == before


@every_method
def test_phases_decide_the_order(method):
    for phase, first in FIRST.items():
        try:
            order = ordered([method, *first.values])
        except HastenError:  # the same, or one that cannot stand beside it
            continue
        if phase != method.phase:
            assert order == sorted([method, *first.values], key=lambda m: m.phase)


@every_method
def test_it_is_listed(method):
    from hasten.methods import methods

    listed = {one["name"]: one for one in methods()}
    assert listed[method.name]["family"] == FIELDS[type(method)] and listed[method.name]["about"]


@every_method
def test_network_arguments_by_keyword(method):
    """A loop of one's own gives the same whether it calls the network with positions or keywords."""
    pipe = make("sd")
    if not takes(method, pipe):
        pytest.skip("not for U-Nets")
    noise, text = torch.randn(2, 4, 8, 8), arguments(pipe, 2)["prompt_embeds"]

    def loop(by_keyword: bool):
        x = noise
        pipe.scheduler.set_timesteps(4)
        pipe.scheduler.run.expect(len(x))
        for t in pipe.scheduler.timesteps:
            batch, prompt = torch.cat([x, x]), torch.cat([0 * text, text])
            if by_keyword:
                out = pipe.unet(encoder_hidden_states=prompt, timestep=t, sample=batch).sample
            else:
                out = pipe.unet(batch, t, prompt, return_dict=False)[0]
            low, high = out.chunk(2)
            x = pipe.scheduler.step(low + 4.0 * (high - low), t, x).prev_sample
        return x

    with torch.no_grad(), method.applied(pipe):
        assert torch.equal(loop(True), loop(False))


@pytest.mark.slow
def test_a_method_that_is_only_registered_goes_through_the_whole_matrix():
    """Five made-up methods, one a phase, listed by a plugin: nothing else in hasten or in this file knows of them."""
    # on 4 steps that pair is full on the same ones, so the inner changes nothing
    at = {"cwd": os.path.dirname(__file__), "env": os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}}
    command = [sys.executable, "-m", "pytest", "-p", "toys", "-n", "0", "-p", "no:cacheprovider", "--no-header"]
    done = subprocess.run(
        [*command, __file__, "-k", "toy and not toy-cache-taylorseer"], capture_output=True, text=True, **at
    )
    assert done.returncode == 0, done.stdout[-3000:]
    passed = int(done.stdout.rsplit(" passed", 1)[0].rsplit(maxsplit=1)[-1])
    assert passed >= 50


@every_method
@pytest.mark.parametrize("calls", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_memory_is_flat_over_calls_and_free_at_once_afterwards(method, calls):
    pipe = pipelines(method, FEW[:1])[0]
    call(pipe, steps=2)

    def held() -> int:
        return sum(isinstance(one, torch.Tensor) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = held()
        with method.applied(pipe):
            call(pipe, steps=2), call(pipe, steps=2)
            views = [weakref.ref(module) for module in network_of(pipe).modules()]
            gc.collect()  # what torch.fx and diffusers leave behind is not ours
            few = held()
            for _ in range(calls):
                call(pipe, steps=2)
            gc.collect()
            assert held() <= few
        assert all(view() is None for view in views)
        gc.collect()
        assert held() <= before
    finally:
        gc.enable()
