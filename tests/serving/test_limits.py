"""Rates and numbers of requests, with a clock of the tests'."""

import pytest

from penjing.errors import ConfigError
from penjing.serving import limits as module
from penjing.serving.limits import Limiter, Limits


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_grants_its_rate_and_no_more_over_any_long_time():
    """Oracle: over T seconds at most burst + rate / 60 * T requests, and all of them if they are asked for."""
    clock = Clock()
    limiter = Limiter(Limits(rate=120, burst=5), clock)
    granted = 0
    for _ in range(1000):  # 100 seconds, ten requests a second
        if limiter.enter("ada") is None:
            granted += 1
            limiter.leave("ada")
        clock.now += 0.1
    assert granted == pytest.approx(5 + 120 / 60 * 100, abs=1)


def test_a_refused_request_is_let_in_when_it_comes_again_as_told():
    clock = Clock()
    limiter = Limiter(Limits(rate=6, burst=1), clock)
    assert limiter.enter("ada") is None
    refusal = limiter.enter("ada")
    assert refusal is not None
    assert (refusal.reason, refusal.retry_after) == ("rate", 10)
    clock.now += refusal.retry_after
    assert limiter.enter("ada") is None


def test_users_do_not_take_from_each_other_and_a_key_may_have_its_own_limits():
    limiter = Limiter(Limits(rate=60, burst=1, concurrent=1), Clock())
    assert limiter.enter("ada") is None
    assert limiter.enter("bob") is None
    assert limiter.enter("ada").reason == "concurrent"
    assert limiter.enter("ada", concurrent=2).reason == "rate"
    assert limiter.enter("carl", rate=600, concurrent=3) is None


def test_requests_at_once_are_bounded_by_user_and_in_all():
    limiter = Limiter(Limits(concurrent=2, queue=3), Clock())
    assert [limiter.enter("ada") is None for _ in range(3)] == [True, True, False]
    assert limiter.enter("bob") is None
    refusal = limiter.enter("carl")
    assert (refusal.reason, refusal.retry_after >= 1) == ("queue", True)
    limiter.leave("ada")
    assert limiter.enter("carl") is None


def test_how_long_to_wait_follows_from_how_fast_requests_end():
    """Ten requests ended in the last 40 seconds, so the next will in about 4."""
    clock = Clock()
    limiter = Limiter(Limits(queue=1), clock)
    for _ in range(10):
        limiter.enter("ada")
        limiter.leave("ada")
        clock.now += 4
    limiter.enter("ada")
    assert 3 <= limiter.enter("bob").retry_after <= 5


def test_users_of_long_ago_are_forgotten(monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED_USERS", 100)
    clock = Clock()
    limiter = Limiter(Limits(rate=60, burst=2), clock)
    limiter.enter("stays")
    for number in range(1000):
        limiter.enter(f"user {number}")
        limiter.leave(f"user {number}")
        clock.now += 1
    assert len(limiter._users) <= 101
    assert limiter._users["stays"].at_once == 1


@pytest.mark.parametrize(
    "wrong", [{"body": 0}, {"rate": -1}, {"depth": -3}, {"header_seconds": 0}, {"rate": float("inf")}]
)
def test_limits_without_sense_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Limits(**wrong)
