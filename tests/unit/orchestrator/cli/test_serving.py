import time
from pathlib import Path

import pytest

from orchestrator.cli.serving import http_address, service_overrides, study_to_serve
from orchestrator.config import ConfigError
from orchestrator.events import RecordStudy, RecordTrial
from orchestrator.home import Home
from orchestrator.schema import Holder
from orchestrator.store.database import DatabaseStore
from tests.unit.orchestrator.control.rigs import composed


def test_a_service_takes_the_overrides_of_its_own_groups() -> None:
    given = ["cluster=local", "ordering.max_wait_s=60", "+cluster.preload=[]", "tenants=two_teams"]
    assert service_overrides(given) == given


@pytest.mark.parametrize("override", ["study=rl_vs_sft", "optimizer.lr=1e-3", "seed=0,1", "algorithm=grpo"])
def test_what_belongs_to_a_study_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="give the rest to submit"):
        service_overrides([override])


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:8321", ("127.0.0.1", 8321)), ("[::1]:0", ("::1", 0)), ("host.example:80", ("host.example", 80))],
)
def test_an_address_is_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert http_address(text) == address


@pytest.mark.parametrize("text", ["8321", ":8321", "host:", "host:port", "host:70000", "host:-1"])
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="write HOST:PORT"):
        http_address(text)


def test_a_study_that_nobody_serves_may_be_served_here_but_not_a_trial(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.prepare()
    store = DatabaseStore(home.store_url)
    submission = composed("study=single")
    study = submission.new_study(time.time())
    (trial,) = submission.trials(study)
    store.apply([RecordStudy(study=study), RecordTrial(trial=trial, was=None, at=0.0)])
    assert study_to_serve(home, None) == study.study_id
    assert study_to_serve(home, study.study_id) == study.study_id
    assert study_to_serve(home, trial.trial_id) is None
    with pytest.raises(ConfigError, match="no such study"):
        study_to_serve(home, "nobody")
    store.take_lease(store.lease(), Holder(host="h", pid=1, started_at=0.0), {}, time.time())
    store.close()
    assert study_to_serve(home, study.study_id) is None
