"""Waiting for a store that is away."""

import logging

import pytest

from orchestrator.patience import RETRY_S, Patience
from orchestrator.ports import StoreUnavailable


class Store:
    """Away for the first `away` calls."""

    def __init__(self, away: int) -> None:
        self.away = away

    def __call__(self) -> str:
        self.away -= 1
        if self.away >= 0:
            raise StoreUnavailable("the database is locked")
        return "answer"


def test_whoever_must_know_waits_until_the_store_answers() -> None:
    pauses: list[float] = []
    assert Patience(pauses.append).when_there(Store(away=3)) == "answer"
    assert pauses == [RETRY_S] * 3


def test_whoever_can_do_without_goes_on() -> None:
    pauses: list[float] = []
    assert Patience(pauses.append).if_there(Store(away=1), "nothing") == "nothing"
    assert pauses == []


def test_an_absence_is_said_once_however_many_notice(caplog: pytest.LogCaptureFixture) -> None:
    patience = Patience(lambda _: None)
    with caplog.at_level(logging.WARNING):
        patience.if_there(Store(away=1), "nothing")
        patience.when_there(Store(away=2))
    said = [record.getMessage().partition(" after")[0] for record in caplog.records]
    assert said == ["store: the database is locked; waiting for it, training goes on", "store: there again"]
