"""Six kinds of network output are one thing said six ways."""

import pytest
import torch

from hasten.core.errors import HastenError
from hasten.predictions import KINDS, Prediction


def outputs(x0, eps, a, s):
    return {
        "epsilon": eps,
        "sample": x0,
        "v_prediction": a * eps - s * x0,
        "flow_prediction": eps - x0,
        "reversed_flow_prediction": x0 - eps,
        "score": -eps / s,
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("a", "s"), [(0.6, 0.8), (0.3, 0.7), (1.0, 14.6), (0.999, 0.02)])
def test_every_kind_gives_back_data_and_noise(kind, a, s):
    x0, eps = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = a * x0 + s * eps
    p = Prediction(x, a, s, outputs(x0, eps, a, s)[kind], kind)
    for got, true in ((p.data, x0), (p.noise, eps), (p.velocity, eps - x0), (p.score, -eps / s), (p.state, x)):
        torch.testing.assert_close(got, true, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", ["sample", "v_prediction", "flow_prediction"])
def test_pure_noise_has_finite_predictions(kind):
    x0, eps = torch.randn(2, 3, 4, dtype=torch.float64)
    p = Prediction(eps, 0.0, 1.0, outputs(x0, eps, 0.0, 1.0)[kind], kind)
    torch.testing.assert_close(p.data, x0)
    torch.testing.assert_close(p.noise, eps)


def test_rows_have_their_own_times():
    x0, eps = torch.randn(2, 5, 4, dtype=torch.float64)
    a, s = torch.rand(2, 5, 1, dtype=torch.float64) + 0.1
    p = Prediction(a * x0 + s * eps, a, s, a * eps - s * x0, "v_prediction").rows(1, 4)
    scale = a**2 + s**2  # v is defined for any alpha, sigma; here they are not on the circle
    torch.testing.assert_close(p.data, x0[1:4])
    assert p.x.shape == (3, 4) and scale.shape == (5, 1)


def test_data_and_renoising_can_be_kept_apart():
    x0, eps, edited = torch.randn(3, 2, 4, dtype=torch.float64)
    plain = Prediction(0.6 * x0 + 0.8 * eps, 0.6, 0.8, eps)
    apart = plain.with_data(edited, renoise=False)
    torch.testing.assert_close(apart.noise, eps)
    torch.testing.assert_close(apart.state, 0.6 * edited + 0.8 * eps)
    follows = plain.with_data(edited)
    torch.testing.assert_close(follows.noise, (plain.x - 0.6 * edited) / 0.8)
    torch.testing.assert_close(follows.state, plain.x)


def test_unknown_kind_is_refused():
    with pytest.raises(HastenError, match="did you mean 'epsilon'"):
        Prediction(torch.zeros(1), 1.0, 1.0, torch.zeros(1), "epsilom")
