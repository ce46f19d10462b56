"""Measures against known answers: closed forms, hand values, constructed cases."""

from __future__ import annotations

import json
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hasten.core.errors import HastenError
from hasten.measure import (
    Drift,
    Estimate,
    bootstrap,
    bootstrap_ratio,
    count_calls,
    drift,
    features,
    frechet_distance,
    kernel_distance,
    macs,
    nearest,
    peak_memory,
    perceptual_distance,
    precision_recall,
    psnr,
    relative,
    signatures,
    timed_ratio,
    weight_bytes,
    wilson,
)

# the original fp32 network with its batch norms, on the first photo below at 224 x 224
PUBLISHED = {"mean": 0.213251, "norm": 16.23619, "argmax": 1136}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small tensors are faster, and the same on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Twelve different 64 x 64 crops of two real photographs."""
    from sklearn.datasets import load_sample_images

    whole = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images])
    whole = whole.permute(0, 3, 1, 2).float()[:, :, :384, :576] / 255
    tiles = whole.unfold(2, 192, 192).unfold(3, 192, 192).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 192, 192)
    return F.interpolate(tiles, (64, 64), mode="bilinear", antialias=True).clamp(0, 1)


def gaussian(n: int, mean: list[float], cov: list[list[float]], seed: int) -> Tensor:
    """Samples whose mean and (unbiased) covariance are exactly those asked for."""
    x = torch.randn(n, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return white @ torch.linalg.cholesky(torch.tensor(cov, dtype=torch.float64)).T + torch.tensor(mean)


# --- intervals -----------------------------------------------------------------------------------------------


def test_wilson_known_values():
    found = wilson(8, 10)  # the textbook case, by hand from the formula
    assert (found.value, found.n) == (0.8, 10)
    assert found.low == pytest.approx(0.490162, abs=1e-6)
    assert found.high == pytest.approx(0.943318, abs=1e-6)
    nothing = wilson(0, 20)
    z = 1.959963985
    assert nothing.low == 0 and nothing.high == pytest.approx(z * z / (20 + z * z))
    empty = wilson(0, 0)
    assert math.isnan(empty.value) and (empty.low, empty.high) == (0, 1)


@pytest.mark.parametrize(
    ("statistic", "truth", "n", "at_least"), [("median", math.log(2), 40, 0.9), ("mean", 1.0, 80, 0.88)]
)
def test_bootstrap_intervals_cover_the_truth_as_often_as_they_claim(statistic, truth, n, at_least):
    samples = np.random.default_rng(1).exponential(size=(300, n))
    found = [bootstrap(row, statistic, resamples=400) for row in samples]
    hits = np.mean([e.low <= truth <= e.high for e in found])
    assert at_least <= hits <= 0.985


SAMPLED = {
    "normal": (lambda g, n: g.normal(size=n), 0.0),
    "lognormal": (lambda g, n: np.exp(g.normal(size=n)), 1.0),
    "nearly alike": (lambda g, n: np.exp(0.02 * g.normal(size=n)), 1.0),
    "exponential": (lambda g, n: g.exponential(size=n), math.log(2)),
    "heavy tails": (lambda g, n: g.standard_t(2, size=n), 0.0),
    "Cauchy": (lambda g, n: g.standard_t(1, size=n), 0.0),
}


@pytest.mark.parametrize("n", [2, 3, 5, 8, 16, 32])
@pytest.mark.parametrize("kind", SAMPLED)
def test_intervals_of_medians_cover_at_every_size(kind, n):
    draw, truth = SAMPLED[kind]
    generator = np.random.default_rng(n)
    for confidence, least in ((0.95, 0.93), (0.8, 0.77)):
        made = [bootstrap(draw(generator, n), confidence=confidence) for _ in range(1000)]
        assert all(one.low <= one.value <= one.high and one.confidence == confidence for one in made)
        assert np.mean([one.low <= truth <= one.high for one in made]) >= least


def test_intervals_of_medians_by_hand():
    x = np.arange(1.0, 13.0)
    assert (bootstrap(x[:6]).low, bootstrap(x[:6]).high) == (1, 6)  # 1 - 2 / 64 = 0.969
    assert (bootstrap(x).low, bootstrap(x).high) == (3, 10)  # 1 - 2 (1 + 12 + 66) / 4096 = 0.961
    two = bootstrap([-1.0, 1.0])  # Student's t of one degree of freedom
    assert (two.low, two.high) == pytest.approx((-12.7062, 12.7062), abs=1e-4)
    same = bootstrap([2.0, 2.0, 2.0])
    assert (same.low, same.high) == pytest.approx((2, 2))


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_ratios_of_few_medians_cover_too(n):
    generator, hits = np.random.default_rng(n), []
    for _ in range(500):
        shared = generator.normal(size=n)
        above, below = (np.exp(shared + 0.3 * generator.normal(size=n)) for _ in range(2))
        one = bootstrap_ratio(above, below, resamples=300)
        hits.append(one.low <= 1 <= one.high)
    assert np.mean(hits) >= 0.92


def test_bootstrap_values_are_numpys_and_the_seed_decides():
    x = np.random.default_rng(2).normal(size=101)
    for statistic, expected in [("median", np.median(x)), ("p95", np.percentile(x, 95)), ("mean", x.mean())]:
        assert bootstrap(x, statistic).value == pytest.approx(expected, rel=1e-12)
    assert bootstrap(x, seed=3) == bootstrap(x, seed=3) != bootstrap(x, seed=4)
    endless = bootstrap([math.inf, math.inf, math.inf, 1.0])  # infinite samples do not turn into NaN
    assert endless.value == endless.high == math.inf and not math.isnan(endless.low)


def test_pairing_removes_what_the_pairs_share():
    generator = np.random.default_rng(0)
    shared = np.exp(2 * generator.normal(size=60))
    ours = 0.5 * shared * np.exp(0.01 * generator.normal(size=60))
    paired = bootstrap_ratio(ours, shared)
    unpaired = bootstrap_ratio(generator.permutation(ours), shared)
    assert paired.value == pytest.approx(0.5, rel=0.02)
    assert paired.high - paired.low < 0.1 * (unpaired.high - unpaired.low)
    assert bootstrap_ratio([0.0, 0.0], [0.0, 0.0]).value == 1
    assert bootstrap_ratio([1.0, 1.0], [0.0, 0.0]).value == math.inf


def test_estimate_prints_and_serialises():
    assert str(Estimate(0.1234, 0.1012, 0.1501, 64)) == "0.123 [0.101, 0.150] (n=64)"
    assert str(Estimate(31.26, 30.0, 32.5, 8, "psnr", " dB")) == "psnr 31.3 dB [30.0, 32.5] (n=8)"
    assert f"{Estimate(2.0, 1.5, 2.5, 4):.1f}" == "2.0 [1.5, 2.5] (n=4)"
    one = bootstrap([5.0])
    assert one.low == -math.inf and json.loads(json.dumps(one.to_json(), allow_nan=False))["low"] is None


def test_statistics_refuse_what_they_cannot_judge():
    with pytest.raises(HastenError, match="median"):
        bootstrap([1.0, 2.0], "medain")
    for bad in ([], [[1.0]], [math.nan, 1.0]):
        with pytest.raises(HastenError, match="samples"):
            bootstrap(bad)
    with pytest.raises(HastenError, match="equally many"):
        bootstrap_ratio([1.0], [1.0, 2.0])


# --- features ------------------------------------------------------------------------------------------------


def test_features_do_not_depend_on_the_batch(photos):
    together, apart = features(photos), features(photos, batch=5)
    assert together.shape == (12, 1280) and together.dtype == torch.float32
    assert torch.allclose(together, apart, atol=1e-4)
    assert features(photos[:1, :1, :8, :8]).isfinite().all()


def test_network_matches_the_published_weights(photos):
    found = features(F.interpolate(photos[:1], (224, 224)), size=224)[0]
    assert found.mean().item() == pytest.approx(PUBLISHED["mean"], rel=5e-3)
    assert found.norm().item() == pytest.approx(PUBLISHED["norm"], rel=5e-3)
    assert found.argmax().item() == PUBLISHED["argmax"]


def test_perceptual_distance_is_a_distance_that_grows_with_damage(photos):
    assert torch.equal(perceptual_distance(photos, photos), torch.zeros(12))
    other = photos.roll(1, 0)
    apart = perceptual_distance(photos, other)
    assert torch.allclose(apart, perceptual_distance(other, photos), rtol=1e-4)
    assert (apart > 0.1).all() and (apart < 4).all()
    noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(0))
    noisy = [perceptual_distance(photos, (photos + s * noise).clamp(0, 1)) for s in (0.02, 0.05, 0.1, 0.2)]
    small = [F.interpolate(photos, (s, s), mode="bilinear", antialias=True) for s in (48, 32, 16, 8)]
    blurred = [perceptual_distance(photos, F.interpolate(x, (64, 64), mode="bilinear")) for x in small]
    for levels in (noisy, blurred):
        assert (torch.stack(levels).diff(dim=0) > 0).float().mean() > 0.95
        assert (torch.stack(levels).mean(1).diff() > 0).all()
    shifted = perceptual_distance(photos[..., 2:, 2:], photos[..., :-2, :-2])
    assert (shifted < perceptual_distance(photos, other)).all()


def test_perceptual_distance_has_a_gradient(photos):
    x = photos[:1].clone().requires_grad_()
    perceptual_distance(x, photos[1:2]).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_nearest_finds_the_same_picture_after_damage(photos):
    damaged = F.interpolate(photos.roll((2, 2), (2, 3)) * 0.9, (40, 40), mode="bilinear", antialias=True)
    found = signatures(damaged)
    assert found.shape == (12, 8192) and torch.allclose(found.norm(dim=1), torch.ones(12))
    assert nearest(found, signatures(photos)).tolist() == list(range(12))
    assert nearest(found, signatures(photos).roll(1, 0)).tolist() == [*range(1, 12), 0]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(3, 16, 16), r"\(3, 16, 16\)"),
        (torch.zeros(1, 4, 16, 16), "1 or 3"),
        (torch.zeros(1, 3, 4, 4), "at least 8"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "255"),
        (torch.full((1, 3, 16, 16), 1.5), "1.5"),
        (torch.full((1, 3, 16, 16), math.nan), "nan"),
    ],
)
def test_features_refuse_what_is_no_image(bad, message):
    with pytest.raises(HastenError, match=message):
        features(bad)


# --- drift ---------------------------------------------------------------------------------------------------


def test_image_drift_has_the_hand_computed_values():
    reference = torch.full((2, 3, 16, 16), 0.5)
    found = drift(reference + torch.tensor([0.1, 0.0])[:, None, None, None], reference)
    assert found.samples["rmse"] == pytest.approx([0.1, 0.0], abs=1e-7)
    assert found.samples["psnr"] == pytest.approx([20.0, 100.0], abs=1e-4)
    luminance = (2 * 0.6 * 0.5 + 1e-4) / (0.6**2 + 0.5**2 + 1e-4)  # flat images: SSIM is its luminance term
    assert found.samples["ssim"] == pytest.approx([luminance, 1.0], abs=1e-4)
    assert found.samples["effnet"][1] == 0


def test_psnr_is_torchmetrics(photos):
    from torchmetrics.functional.image import peak_signal_noise_ratio

    noisy = (photos + 0.1 * torch.randn(photos.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    expected = peak_signal_noise_ratio(noisy, photos, data_range=1.0, dim=(1, 2, 3), reduction="none")
    assert drift(noisy, photos).samples["psnr"] == pytest.approx(expected.numpy(), rel=1e-5)
    assert torch.equal(psnr(noisy, photos), torch.from_numpy(drift(noisy, photos).samples["psnr"]))
    assert psnr(photos, photos).tolist() == [100.0] * len(photos)
    assert psnr(photos, photos, ceiling=math.inf).tolist() == [math.inf] * len(photos)


def test_flips_count_samples_that_landed_on_another_reference(photos):
    result = photos.clone()
    result[3], result[7] = photos[7], photos[3]  # two samples changed places
    found = drift((result * 0.98), photos)
    assert np.flatnonzero(found.flipped).tolist() == [3, 7]
    assert (found.flips.value, found.flips.n) == (2 / 12, 12)
    assert "EfficientNet" in found.flip_distance and found.candidates == 12


def test_flips_of_states_are_judged_by_rmse_and_others_compete():
    modes = torch.tensor([[-4.0, 0.0], [4.0, 0.0]])
    reference = modes[[0, 0, 1]] + torch.tensor([[0.1, 0.0], [0.0, 0.1], [0.0, 0.0]])
    result = reference.clone()
    result[2] = modes[0]  # the third sample changed its mode
    assert drift(result, reference).flipped.tolist() == [False, False, True]
    assert drift(reference * 1.01, reference, others=reference).flips.value == 0  # a tie is no flip
    lone = drift(torch.tensor([[0.9, 0.0]]), torch.tensor([[0.0, 0.0]]))
    assert lone.flips.n == 0 and math.isnan(lone.flips.value)
    assert drift(torch.tensor([[0.9, 0.0]]), torch.zeros(1, 2), others=torch.ones(1, 2)).flips.value == 0
    assert drift(torch.tensor([[0.9, 0.8]]), torch.zeros(1, 2), others=torch.ones(1, 2)).flips.value == 1


def test_p95_is_the_bad_tail_of_every_metric():
    worse = np.arange(100.0)
    found = Drift("images", {"rmse": worse, "psnr": 100 - worse}, np.zeros(100, bool), 100)
    assert found.estimate("rmse", "p95").value == pytest.approx(94.05)
    assert found.estimate("psnr", "p95").value == pytest.approx(5.95)


def test_relative_drift_of_a_recipe_to_the_default():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(64, 4, 8, 8, generator=generator)
    error = torch.randn(64, 4, 8, 8, generator=generator) * torch.rand(64, 1, 1, 1, generator=generator)
    recipe, default = drift(reference + 0.05 * error, reference), drift(reference + 0.1 * error, reference)
    assert recipe.kind == "states"
    found = relative(recipe, default)
    assert found.value == pytest.approx(0.5, rel=1e-4) and found.high - found.low < 1e-3 and found.n == 64
    assert relative(recipe, recipe, statistic="p95").value == 1
    exact = drift(reference, reference)
    assert relative(exact, exact).value == 1 and relative(recipe, exact).value == math.inf


def test_relative_ssim_compares_dissimilarities(photos):
    soft, hard = drift(photos * 0.98, photos), drift(photos * 0.9, photos)
    assert relative(soft, hard, "ssim").value < 0.5
    with pytest.raises(HastenError, match="rmse"):
        relative(soft, hard, "psnr")
    with pytest.raises(HastenError, match="'ssim'"):
        relative(soft, hard, "sim")
    with pytest.raises(HastenError, match="paired"):
        relative(soft, drift(photos[:5], photos[:5]))


def test_drift_carries_latents_and_serialises(photos):
    z = torch.randn(12, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = drift(photos * 0.9, photos, latents=(z + 0.25, z))
    assert found.estimate("latent_rmse").value == pytest.approx(0.25, rel=1e-6)
    table = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert set(table["metrics"]) == {"rmse", "psnr", "ssim", "effnet", "latent_rmse"}
    assert table["metrics"]["rmse"]["median"]["n"] == table["flips"]["n"] == 12
    assert "latent_rmse p95 0.250" in str(found)


def test_drift_refuses_runs_that_diverged_and_mismatches(photos):
    broken = photos.clone()
    broken[:2] = math.nan
    with pytest.raises(HastenError, match="2 of 12 samples are not finite"):
        drift(broken, photos)
    with pytest.raises(HastenError, match="equal"):
        drift(photos[:2], photos)
    with pytest.raises(HastenError, match="others"):
        drift(photos, photos, others=photos[..., :32])
    with pytest.raises(HastenError, match="latents"):
        drift(photos, photos, latents=(torch.zeros(2, 4), torch.zeros(2, 4)))
    with pytest.raises(HastenError, match=r"\[0, 1\]"):
        drift(photos * 2 - 1, photos)


# --- distribution --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 200], ids=["fewer samples than dimensions allow", "more"])
def test_frechet_distance_is_the_closed_form_of_gaussians(n):
    if n == 3:  # three points in three dimensions have rank two; the third axis is empty
        flat = torch.tensor([[1.0, 0, 0], [-0.5, 3**0.5 / 2, 0], [-0.5, -(3**0.5) / 2, 0]], dtype=torch.float64)
        found = frechet_distance(flat, 3 * flat + torch.tensor([0.0, 0.0, 2.0]))
        assert found.value == pytest.approx(4 + 2 * (3 - 1) ** 2 * 0.75)  # variance 3/4 on two axes
        return
    # commuting covariances: |mean|^2 + sum (sqrt a - sqrt b)^2, rotated so that neither is diagonal
    turn = torch.linalg.qr(torch.tensor([[1.0, 2, 3], [0, 1, 4], [5, 6, 0]], dtype=torch.float64)).Q
    first = gaussian(n, [0, 0, 0], (turn @ torch.diag(torch.tensor([1.0, 4, 9]).double()) @ turn.T).tolist(), 0)
    second = gaussian(2 * n, [1, 2, 2], (turn @ torch.diag(torch.tensor([4.0, 4, 1]).double()) @ turn.T).tolist(), 1)
    assert frechet_distance(first, second).value == pytest.approx(9 + 1 + 0 + 4)
    assert frechet_distance(first, first).value == pytest.approx(0, abs=1e-9)


def test_frechet_interval_has_the_spread_of_fresh_samples():
    generator = torch.Generator().manual_seed(0)
    for n, dimension in ((150, 3), (20, 40)):  # both ways of computing it
        draws = [
            frechet_distance(
                torch.randn(n, dimension, generator=generator) * 2,
                torch.randn(n, dimension, generator=generator),
            )
            for _ in range(120)
        ]
        claimed = np.mean([(e.high - e.value) / 1.96 for e in draws])
        assert claimed == pytest.approx(np.std([e.value for e in draws]), rel=0.25)


def test_frechet_distance_is_the_same_by_both_ways_of_computing_it():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 3, generator=generator) * 2, torch.randn(15, 3, generator=generator) + 1
    plain, padded = frechet_distance(x, y), frechet_distance(F.pad(x, (0, 20)), F.pad(y, (0, 20)))
    assert (plain.value, plain.low, plain.high) == pytest.approx((padded.value, padded.low, padded.high))


def test_kernel_distance_by_brute_force_and_its_null():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 3, generator=generator), torch.randn(5, 3, generator=generator) + 1

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    xx = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    xy = np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(x, y).value == pytest.approx(xx + yy - 2 * xy, rel=1e-5)
    tiny = kernel_distance(x[:3], y[:3])  # some resamples draw one sample three times
    assert tiny.low < tiny.value < tiny.high
    same = kernel_distance(torch.randn(100, 8, generator=generator), torch.randn(100, 8, generator=generator))
    far = kernel_distance(torch.randn(100, 8, generator=generator) + 1, torch.randn(100, 8, generator=generator))
    assert same.low < 0 < same.high < far.low


def test_precision_and_recall_tell_collapse_from_noise():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 100, 2, generator=generator) + torch.tensor([[[-20.0, 0]], [[20.0, 0]]])
    data = torch.cat([left, right])
    collapsed = precision_recall(torch.randn(100, 2, generator=generator) + torch.tensor([-20.0, 0]), data)
    assert collapsed["precision"].value > 0.85 and collapsed["recall"].value == pytest.approx(0.47, abs=0.05)
    assert collapsed["coverage"].value < 0.55
    stray = precision_recall(torch.cat([data + 0.01, torch.full((200, 2), 200.0)]), data)
    assert stray["precision"].value == pytest.approx(0.5) and stray["coverage"].value == 1
    itself = precision_recall(data, data)
    assert all(itself[name].value == 1 for name in ("precision", "recall", "coverage"))
    assert itself["density"].value == pytest.approx(6 / 5)  # each ball holds its centre and five neighbours
    assert itself["recall"].n == 200


def test_distribution_refuses_bad_features():
    with pytest.raises(HastenError, match="features"):
        frechet_distance(torch.zeros(4, 3), torch.zeros(4, 2))
    with pytest.raises(HastenError, match="6 samples"):
        precision_recall(torch.zeros(5, 2), torch.zeros(9, 2))
    with pytest.raises(HastenError, match="finite"):
        kernel_distance(torch.full((4, 2), math.nan), torch.zeros(4, 2))


# --- cost ----------------------------------------------------------------------------------------------------


def test_macs_are_exact_for_linear_convolution_and_attention():
    x = torch.rand(2, 6, 10, 10)
    with torch.no_grad():
        assert macs(lambda: nn.Linear(8, 4)(torch.rand(3, 5, 8))) == 3 * 5 * 8 * 4
        assert macs(lambda: nn.Conv2d(6, 12, 3, stride=2, padding=1)(x)) == 2 * 12 * 5 * 5 * 6 * 9
        assert macs(lambda: nn.Conv2d(6, 6, 3, groups=6)(x)) == 2 * 6 * 8 * 8 * 9
        q, k = torch.rand(2, 4, 16, 8), torch.rand(2, 4, 5, 8)
        assert macs(lambda: F.scaled_dot_product_attention(q, k, k)) == 2 * (2 * 4 * 16 * 5 * 8)
        a = torch.ones(32, 16, dtype=torch.int8)
        assert macs(lambda: torch._int_mm(a, torch.ones(16, 8, dtype=torch.int8))) == 32 * 16 * 8


def test_macs_see_attentions_and_encoder_layers_in_eval_mode():
    x = torch.rand(2, 5, 8)
    attention = 2 * 5 * (3 + 1) * 8 * 8 + 2 * (2 * 2 * 5 * 5 * 4)
    layer = attention + 2 * (2 * 5 * 8 * 16)
    heads = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    stack = nn.TransformerEncoder(encoder, 3)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        assert macs(lambda: heads(x, x, x)) == macs(lambda: heads(x, x, x, need_weights=False)) == attention
        assert macs(lambda: encoder(x)) == macs(lambda: encoder.train()(x)) == layer
        assert macs(lambda: stack(x)) == macs(lambda: stack(x, src_key_padding_mask=padding)) == 3 * layer
        with pytest.raises(AssertionError):
            macs(lambda: heads(x, x[:1], x))
    assert torch.backends.mha.get_fastpath_enabled()


def test_timed_ratio_of_sleeps():
    found = timed_ratio(lambda: time.sleep(0.02), lambda: time.sleep(0.01), repeats=8)
    assert found.value == pytest.approx(2, rel=0.15) and found.n == 8 and found.low <= found.value <= found.high


def test_timed_ratio_interleaves_and_reverses():
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    found = timed_ratio(lambda: order.append("default"), runs, repeats=6, warmup=2)
    assert set(found) == {"a", "b"}
    assert sorted(order[:6]) == ["a", "a", "b", "b", "default", "default"]
    rounds = [order[i : i + 3] for i in range(6, 24, 3)]
    assert all(sorted(one) == ["a", "b", "default"] for one in rounds)
    assert all(rounds[i] == rounds[i + 1][::-1] for i in (0, 2, 4))
    with pytest.raises(HastenError, match="repeats"):
        timed_ratio(list, list, repeats=0)


def test_peak_memory_counts_live_tensors_exactly(capfd):
    def two_then_one() -> None:
        first = torch.zeros(250_000)
        second = torch.zeros(250_000)
        del first, second
        torch.zeros(300_000)

    assert peak_memory(two_then_one) == pytest.approx(2_000_000, abs=256)
    assert peak_memory(two_then_one) == pytest.approx(2_000_000, abs=256)  # a warm allocator changes nothing
    kept = torch.zeros(1_000_000)
    assert peak_memory(lambda: kept.add_(1)) < 256  # what was there before is not counted
    assert capfd.readouterr().err == ""


def test_weight_bytes_counts_shared_storage_once():
    layer = nn.Linear(10, 10, bias=False)
    assert weight_bytes(layer) == 400
    assert weight_bytes(nn.ModuleList([layer, nn.Linear(10, 10, bias=False).half()])) == 600

    parts = {"unet": layer, "copy": layer, "norm": nn.BatchNorm1d(4), "scheduler": object()}
    assert weight_bytes(SimpleNamespace(components=parts)) == 400 + 4 * 4 * 4 + 8
    with pytest.raises(HastenError, match="str"):
        weight_bytes("unet")


def test_weight_bytes_of_views_count_what_they_show():
    whole = torch.zeros(100, 10)
    parts = {"first": whole[:5], "again": whole[:3], "column": whole[50:, 2:4], "turned": whole[90:].T}
    holder = nn.Module()
    for name, view in parts.items():
        holder.register_buffer(name, view)
    assert weight_bytes(holder) == 4 * (5 * 10 + 50 * 2 + 10 * 10 - 10 * 2)
    holder = nn.Module()
    holder.register_buffer("spread", torch.zeros(3, 1).expand(3, 1000))
    holder.register_buffer("nothing", torch.zeros(0))
    assert weight_bytes(holder) == 3 * 4
    holder = nn.Module()
    holder.register_buffer("last", torch.zeros(4, 3, 3, 3).to(memory_format=torch.channels_last))
    assert weight_bytes(holder) == 4 * 4 * 3 * 9


def test_count_calls_sees_rows_and_leaves_no_trace():
    class Net(nn.Module):
        def forward(self, sample: Tensor, t: Tensor) -> Tensor:
            return sample * t

    net = Net()
    before = {name: dict(v) if isinstance(v, dict) else v for name, v in vars(net).items()}
    with count_calls(net) as seen:
        net(torch.zeros(4, 3), torch.tensor(1.0))
        net(t=torch.tensor(1.0), sample=torch.zeros(2, 3))
    net(torch.zeros(4, 3), torch.tensor(1.0))
    assert (seen.calls, seen.rows) == (2, 6)
    with pytest.raises(RuntimeError), count_calls(net) as seen:
        net(torch.zeros(4, 3), torch.zeros(7, 7))
    assert seen.calls == 1  # a call that fails was still a call
    assert {name: dict(v) if isinstance(v, dict) else v for name, v in vars(net).items()} == before
