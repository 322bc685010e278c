"""Scaling laws: the published fit, recovery of known laws, and clear words about runs that cannot be fitted."""

from pathlib import Path

import numpy as np
import pytest

from penjing.errors import ConfigError, DataError
from penjing.training.scaling_laws import (
    Chinchilla,
    Kaplan,
    Machine,
    Points,
    bootstrap,
    envelope,
    fit,
    huber_sum,
    interval,
    isoflop,
    plan,
    published,
)
from penjing.training.scaling_laws.compute_optimal import budgets
from penjing.training.scaling_laws.plan import shape

HOFFMANN = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
BESIROGLU = Chinchilla(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
KAPLAN = Kaplan(N_c=8.8e13, D_c=5.4e13, alpha_N=0.076, alpha_D=0.095)


def grid(law: Chinchilla | Kaplan, noise: float = 0.0) -> Points:
    """Runs of a known law: 6 sizes by 5 lengths."""
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e10, 6), np.geomspace(1e9, 1e11, 5)))
    loss = law.loss(n, d) * np.exp(np.random.default_rng(1).normal(0, noise, n.size) if noise else 0)
    return Points.of(n, d, loss)


@pytest.fixture(scope="module")
def chinchilla_runs(data: Path) -> Points:
    """The 240 runs read off the paper's figure by Besiroglu et al."""
    return Points.read(data / "eval/chinchilla_svg_extracted_data.csv").without_highest(5)


def test_the_refit_of_chinchillas_runs_is_the_published_one(chinchilla_runs):
    """Besiroglu et al.'s constants within 2 %, the Huber sum within 1 %, and no better one from any of the starts."""
    found = fit(chinchilla_runs, Chinchilla)
    assert found.runs == 240
    expected = {"A": 477.84, "B": 2143.86, "E": 1.81724, "alpha": 0.347313, "beta": 0.367183}
    for name, value in expected.items():
        assert getattr(found.law, name) == pytest.approx(value, rel=0.02), name
    assert found.objective == pytest.approx(1.018274e-3, rel=0.01)
    assert found.objective == pytest.approx(huber_sum(found.law, chinchilla_runs), rel=1e-9)


def test_the_constants_that_hoffmann_printed_fit_much_worse(chinchilla_runs):
    """Four times the Huber sum: the sums that the replication prints, to their digits."""
    assert huber_sum(HOFFMANN, chinchilla_runs) == pytest.approx(4.121009e-3, rel=1e-5)
    assert huber_sum(BESIROGLU, chinchilla_runs) == pytest.approx(1.022843e-3, rel=1e-4)


def test_the_budget_of_chinchilla_is_spent_as_published():
    """At 5.76e23 operations: 32.2 and 72.3 billion parameters; all of it is spent, and no other split is better."""
    for law, parameters in ((HOFFMANN, 32.2e9), (BESIROGLU, 72.3e9)):
        n, d = law.optimum(5.76e23)
        assert n == pytest.approx(parameters, rel=2e-3)
        assert 6 * n * d == pytest.approx(5.76e23)
        assert all(law.loss(n * f, d / f) > law.loss(n, d) for f in (0.9, 1.1))
    assert HOFFMANN.loss(70e9, 1.4e12) == pytest.approx(1.9366, abs=1e-4)


def test_kaplans_law_has_the_papers_values():
    """L(N) and L(D) where the other is without bound, and equation 1.5 at one point."""
    assert KAPLAN.loss(1e8, 1e30) == pytest.approx(2.8300, abs=1e-4)
    assert KAPLAN.loss(1e30, 1e9) == pytest.approx(2.8156, abs=1e-4)
    assert KAPLAN.loss(1e8, 1e9) == pytest.approx(3.0150, abs=1e-4)


@pytest.mark.parametrize("law", [HOFFMANN, BESIROGLU, KAPLAN], ids=["hoffmann", "besiroglu", "kaplan"])
def test_a_known_law_is_found_again(law):
    """From exact losses: predictions to 1e-4 within the range and to 1 % at a hundred times the compute."""
    found = fit(grid(law), type(law)).law
    for n, d, tolerance in ((3e8, 3e9, 1e-4), (1e11, 1e12, 1e-2)):
        assert found.loss(n, d) == pytest.approx(law.loss(n, d), rel=tolerance)


def test_a_law_of_another_kind_fits_worse():
    runs = grid(HOFFMANN)
    assert fit(runs, Kaplan).objective > 10 * fit(runs, Chinchilla).objective


def test_a_few_odd_runs_hardly_move_the_fit():
    """Two of 30 losses doubled: the prediction moves by less than 1 %, which least squares would not manage."""
    runs = grid(HOFFMANN, noise=0.002)
    odd = runs.loss.copy()
    odd[[4, 21]] *= 2
    moved = fit(Points.of(runs.parameters, runs.tokens, odd), Chinchilla).law
    assert moved.loss(1e9, 1e10) == pytest.approx(HOFFMANN.loss(1e9, 1e10), rel=0.01)


def test_analytic_derivatives_equal_differences():
    """Both laws, centred differences in float64; 1e-6 of values about 1."""
    random = np.random.default_rng(0)
    n, d = random.normal(0, 2, 7), random.normal(0, 2, 7)
    for law, raw in ((Chinchilla, [0.3, -0.2, 0.5, 0.34, 0.28]), (Kaplan, [4.0, 3.0, 0.08, 0.1])):
        raw = np.array(raw)
        _, slopes = law.predict(raw, n, d)
        for i, slope in enumerate(slopes):
            step = np.zeros_like(raw)
            step[i] = 1e-6
            numeric = (law.predict(raw + step, n, d)[0] - law.predict(raw - step, n, d)[0]) / 2e-6
            np.testing.assert_allclose(slope, numeric, atol=1e-6)


@pytest.mark.slow
def test_resampled_laws_bracket_the_true_one():
    """30 noisy runs, 40 resamples, a fixed seed: the true prediction lies within the 95 % interval, which is narrow."""
    runs = grid(HOFFMANN, noise=0.005)
    laws = bootstrap(runs, fit(runs, Chinchilla), resamples=40, seed=2)
    low, high = interval([law.loss(1e11, 1e12) for law in laws])
    assert low < HOFFMANN.loss(1e11, 1e12) < high
    assert high - low < 0.15
    assert laws[:3] == bootstrap(runs, fit(runs, Chinchilla), resamples=3, seed=2)


def test_parabolas_and_the_envelope_find_the_best_sizes():
    """Budgets of a law whose powers are equal, so that its valleys are symmetric: the exponent is a half, to 2 %."""
    law = Chinchilla(E=1.7, A=400, B=400, alpha=0.3, beta=0.3)
    flops = np.repeat(np.geomspace(1e18, 1e21, 4), 9)
    n = law.optimum(flops)[0] * np.tile(np.geomspace(0.25, 4, 9), 4)
    runs = Points.of(n, flops / (6 * n), law.loss(n, flops / (6 * n)))
    assert [len(members) for members in budgets(runs)] == [9] * 4
    for found in (isoflop(runs), envelope(runs)):
        assert found.exponent == pytest.approx(0.5, rel=0.02)
        assert found.optimum(1e20)[0] == pytest.approx(law.optimum(1e20)[0], rel=0.05)
        assert len(found.found) == 4
    assert isoflop(runs.take(np.arange(36) >= 5)).left_out == pytest.approx([1e18])


def test_columns_may_have_any_usual_name_and_the_third_size_follows(tmp_path):
    (tmp_path / "a.csv").write_text("N,D,loss\n1e6,2e7,4.5\n\n2e6,2e7,4.1\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text(
        "\ufeffModel Size,Training FLOP,x,Loss\n1e6,1.2e14,?,4.5\n2e6,2.4e14,?,4.1\n", "utf-8"
    )
    (tmp_path / "c.csv").write_text("tokens,flops,loss\n2e7,1.2e14,4.5\n2e7,2.4e14,4.1\n", encoding="utf-8")
    for name in "abc":
        runs = Points.read(tmp_path / f"{name}.csv")
        np.testing.assert_allclose(runs.parameters, [1e6, 2e6])
        np.testing.assert_allclose(runs.tokens, [2e7, 2e7])
        np.testing.assert_allclose(runs.flops, [1.2e14, 2.4e14])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs a column 'loss' and two of .* it has: nothing"),
        ("N,loss\n1,2\n", "it has: n, loss"),
        ("N,D,loss\n", "a header and no runs"),
        ("N,D,loss\n1e6,2e7,4\n1e6,many,4\n", "line 3: tokens is 'many', no number"),
        ("N,D,loss\n1e6,2e7\n", "line 2: loss is '', no number"),
        ("N,D,loss\n1e6,-1,4\n", "line 2: tokens is -1; it must be a finite number above 0"),
        ("N,D,loss\n1e6,1,nan\n", "line 2: loss is nan"),
    ],
)
def test_a_file_that_has_no_runs_is_refused_with_its_line(tmp_path, text, words):
    path = tmp_path / "runs.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        Points.read(path)


def test_runs_that_cannot_be_fitted_are_refused():
    runs = grid(HOFFMANN)
    with pytest.raises(DataError, match="cannot read"):
        Points.read("no-such-file.csv")
    with pytest.raises(DataError, match="5 constants need 7 runs or more; there are 6"):
        fit(runs.take(np.arange(6)), Chinchilla)
    with pytest.raises(DataError, match="the same number of tokens"):
        fit(Points.of(runs.parameters, np.full(30, 1e9), runs.loss), Chinchilla)
    with pytest.raises(DataError, match="a line needs two"):
        isoflop(runs.take(runs.tokens == runs.tokens[0]))
    with pytest.raises(DataError, match="cannot leave out 30 of 30"):
        runs.without_highest(30)


def test_the_published_law_is_the_fit_to_the_runs_and_as_uncertain(chinchilla_runs):
    """What is kept of the runs predicts as the fit does (1e-4), and its 95 % intervals are those that 4,000 bootstrap
    fits of the same runs gave, within a fifth of their width."""
    law, laws = published()
    found = fit(chinchilla_runs, Chinchilla).law
    for n, d in ((1e8, 1e10), (70e9, 1.4e12)):
        assert law.loss(n, d) == pytest.approx(found.loss(n, d), rel=1e-4)
    expected = {"E": (1.769, 1.871), "alpha": (0.317, 0.373), "beta": (0.331, 0.415), "A": (285, 744)}
    for name, (low, high) in expected.items():
        assert interval([getattr(other, name) for other in laws]) == pytest.approx((low, high), abs=(high - low) / 5)


def test_a_plan_spends_the_budget_and_says_how_sure_it_is():
    """1e21 operations on eight H100s at 40 %: size and tokens multiply to the budget; time and cost by hand; learning
    rate and batch by the papers' formulas."""
    machine = Machine(989e12, utilisation=0.4, devices=8, price=2.5)
    law, laws = published()
    found = plan(1e21, machine, law, laws)
    n, d = found.parameters.value, found.tokens.value
    assert 6 * n * d == pytest.approx(1e21)
    assert found.hours == pytest.approx(1e21 / (989e12 * 0.4 * 8) / 3600)
    assert found.cost == pytest.approx(found.hours * 8 * 2.5)
    assert machine.flops(found.hours) == pytest.approx(1e21)
    assert found.learning_rate == pytest.approx(1.79 * n**-0.713 * d**0.307)
    assert found.steps == round(d / (0.58 * d**0.571))
    for estimate in (found.parameters, found.tokens, found.loss):
        assert estimate.low < estimate.value < estimate.high
    assert found.loss.high - found.loss.low < 0.05
    assert 12 * found.shape.layers * found.shape.width**2 == pytest.approx(n, rel=0.1)


@pytest.mark.parametrize("parameters", [1e5, 1.2e8, 7e9, 1.75e11])
def test_a_shape_has_about_the_parameters_and_whole_heads(parameters):
    found = shape(parameters)
    assert found.width % found.heads == 0
    assert found.width // found.heads in (64, 128)
    assert 12 * found.layers * found.width**2 == pytest.approx(parameters, rel=0.6 if parameters < 1e6 else 0.1)


def test_a_plan_without_a_budget_or_a_machine_is_refused():
    law, laws = published()
    with pytest.raises(ConfigError, match="the budget is 0 operations"):
        plan(0, Machine(1e12), law, laws)
    for wrong in ({"flops_per_second": 0}, {"utilisation": 1.5}, {"devices": 0}):
        with pytest.raises(ConfigError, match="a machine has a speed above 0"):
            Machine(**{"flops_per_second": 1e12, **wrong})
    with pytest.raises(ConfigError, match="the price is -1"):
        Machine(1e12, price=-1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it has: nothing"),
        ("parameters;tokens;loss\n1;2;3\n", "columns are separated by commas"),
        ("loss,loss,N,D\n1,2,3,4\n", "several columns 'loss'"),
        ("N,D,loss\n1e300,1,3\n", "line 2: parameters is 1e300; no run has more than 1e\\+40"),
        ("\n\nN,D,loss\n1,2,3\n\n1,2,-3\n", "line 6: loss is -3; it must be a finite number above 0"),
        ("N,C,loss\n1,-2,3\n", "flops is -2; it must be a finite number above 0"),
        ("N,D,loss\n", "a header and no runs"),
    ],
)
def test_a_table_that_is_none_is_refused_by_line(tmp_path, text, words):
    (tmp_path / "runs.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        Points.read(tmp_path / "runs.csv")


def test_what_is_no_file_of_runs_is_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="cannot read"):
        Points.read(tmp_path)
    monkeypatch.setattr("penjing.training.scaling_laws.points._LARGEST_FILE", 30)
    (tmp_path / "runs.csv").write_text("N,D,loss\n" + "1,2,3\n" * 4, encoding="utf-8")
    with pytest.raises(DataError, match="longer than 30 characters"):
        Points.read(tmp_path / "runs.csv")


@pytest.mark.parametrize(("sign", "what"), [((1, -1), "parameters"), ((-1, 1), "tokens")])
def test_runs_whose_loss_does_not_fall_have_no_law(sign, what):
    """Loss that rises with one of the two; the other falls as it should."""
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e8, 4), np.geomspace(1e7, 1e9, 4)))
    points = Points.of(n, d, 2 + 0.1 * np.log(n / 1e5) * sign[0] + 0.1 * np.log(d / 1e6) * sign[1])
    with pytest.raises(DataError, match=f"does not fall with more {what}"):
        fit(points, Chinchilla)


@pytest.mark.parametrize("flops", [float("inf"), float("nan"), 0.0, -1.0, 1e-5, 1e300])
def test_no_plan_for_a_budget_that_is_none(flops):
    with pytest.raises(ConfigError, match="the budget is"):
        plan(flops, Machine(1e15), *published())


def test_no_plan_by_a_law_that_is_almost_flat_or_on_a_machine_that_never_ends():
    flat = Chinchilla(E=1.0, A=400.0, B=1.0, alpha=0.002, beta=0.002)
    with pytest.raises(ConfigError, match="no law for such a budget"):
        plan(1e20, Machine(1e15), flat, [flat])
    with pytest.raises(ConfigError, match="would never be done"):
        plan(1e20, Machine(1e-300), *published())
    for wrong in ({"flops_per_second": float("inf")}, {"flops_per_second": 1.0, "price": float("nan")}):
        with pytest.raises(ConfigError):
            Machine(**wrong)
