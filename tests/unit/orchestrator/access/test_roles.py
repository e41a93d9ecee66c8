"""What a token allows, on the store itself."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.access.roles import PERMISSIONS, Operation, Reach, ScopedOperations, require
from orchestrator.access.tokens import authenticate, new_token
from orchestrator.config import AccessConfig, ConfigError
from orchestrator.control.operations import Forbidden, NotFound
from orchestrator.events import RecordAllocation
from orchestrator.home import Home
from orchestrator.ports import Store
from orchestrator.schema import Allocation, CommandKind, Role
from tests.unit.orchestrator.access.services import access, opened_home, opened_store, queue_study
from tests.unit.orchestrator.rig import Rig

# Small enough to be composed and read within a second or two.
TASK = ["task.size=1500", "task.split.supervised=100", "task.split.dev=50", "task.split.test=50"]

AsSomebody = Callable[..., ScopedOperations]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return opened_home(tmp_path)


@pytest.fixture
def store(home: Home) -> object:
    store = opened_store(home)
    queue_study(store, "ours", "reasoning", at=1.0)
    queue_study(store, "theirs", "alignment", at=2.0)
    yield store
    store.close()


@pytest.fixture
def somebody(store: Store, home: Home) -> AsSomebody:
    """Operations in the name of somebody of tenant `reasoning`."""

    def operations(role: Role, limits: AccessConfig | None = None) -> ScopedOperations:
        token = authenticate(store, new_token(store, f"a-{role}", role, "reasoning"))
        assert token is not None
        return ScopedOperations(store, home, token, limits or access())

    return operations


def test_every_role_has_a_reach_for_every_operation() -> None:
    assert set(PERMISSIONS) == set(Role)
    assert all(set(allowed) == set(Operation) for allowed in PERMISSIONS.values())


def test_a_role_that_may_change_something_may_look_at_it() -> None:
    for allowed in PERMISSIONS.values():
        assert allowed[Operation.READ] >= max(allowed[Operation.SUBMIT], allowed[Operation.CONTROL])


@pytest.mark.parametrize("operation", [Operation.TOKENS, Operation.SERVICE])
def test_what_concerns_everybody_is_for_admins(store: Store, operation: Operation) -> None:
    for role in Role:
        token = authenticate(store, new_token(store, f"a-{role}", role, "reasoning"))
        assert token is not None
        if role is Role.ADMIN:
            require(token, operation)
        else:
            assert PERMISSIONS[role][operation] is Reach.NOTHING
            with pytest.raises(Forbidden):
                require(token, operation)


@pytest.mark.parametrize(
    ("role", "seen"),
    [(Role.RESEARCHER, {"ours"}), (Role.LEAD, {"ours", "theirs"}), (Role.ADMIN, {"ours", "theirs"})],
)
def test_lists_hold_what_the_role_may_read(somebody: AsSomebody, role: Role, seen: set[str]) -> None:
    operations = somebody(role)
    assert {document["id"] for document in operations.studies()} == seen
    overview = operations.status("")
    assert {document["id"] for document in overview["studies"]} == seen
    assert {document["study"] for document in overview["trials"]} == seen
    assert {document["target"] for document in overview["commands"]} == seen


def test_the_last_study_is_the_last_one_within_reach(somebody: AsSomebody) -> None:
    for role, last in ((Role.RESEARCHER, "ours"), (Role.LEAD, "ours"), (Role.ADMIN, "theirs")):
        operations = somebody(role)
        command_id = operations.command(CommandKind.PAUSE, "")
        assert operations.answer(command_id).target == last


def test_the_store_keeps_who_asked(somebody: AsSomebody, store: Store) -> None:
    command_id = somebody(Role.RESEARCHER).command(CommandKind.PAUSE, "ours-0001")
    command = store.command(command_id)
    assert (command.author, command.target, command.kind) == ("a-researcher", "ours-0001", CommandKind.PAUSE)


def test_a_log_is_read_by_the_runs_of_the_trial_only(somebody: AsSomebody, store: Store) -> None:
    def line(bundle_id: str, study_id: str) -> RecordAllocation:
        return RecordAllocation(
            allocation=Allocation(
                bundle_id=bundle_id,
                study_id=study_id,
                stage_key="k",
                trial_ids=(f"{study_id}-0000",),
                device_ids=("node-a/cpu0",),
                share=1.0,
                opened_at=1.0,
            )
        )

    store.apply([line("mine", "ours"), line("other", "theirs")])
    operations = somebody(Role.RESEARCHER)
    assert operations.logs("ours-0000", "mine", 0).bundle_id == "mine"
    for bundle_id in ("other", "../../etc/passwd", "nothing"):
        with pytest.raises(ConfigError):
            operations.logs("ours-0000", bundle_id, 0)
    with pytest.raises(NotFound):
        operations.logs("theirs-0000", "other", 0)


def test_why_a_trial_waits_names_no_study_of_others(home: Home) -> None:
    store = opened_store(home)
    rig = Rig(store=store, devices=1, start_at=time.time())
    rig.submit(1, "secret-study", tenant="alignment")
    rig.submit(1, "ours", tenant="reasoning")
    rig.cycle(0.0)
    token = authenticate(store, new_token(store, "a-researcher", Role.RESEARCHER, "reasoning"))
    assert token is not None
    said = "\n".join(ScopedOperations(store, home, token, access()).explain("ours-0000"))
    assert "alignment" in said  # whose trial holds the device
    assert "secret-study" not in said
    store.close()


def test_a_study_belongs_to_the_tenant_of_the_token(somebody: AsSomebody, store: Store) -> None:
    submitted = somebody(Role.RESEARCHER).submit(TASK)
    assert store.study(submitted.study_id).tenant == "reasoning"
    assert store.command(submitted.command_id).author == "a-researcher"


def test_only_an_admin_submits_for_others(somebody: AsSomebody, store: Store) -> None:
    overrides = [*TASK, "study.tenant=alignment"]
    submitted = somebody(Role.ADMIN).submit(overrides)
    assert store.study(submitted.study_id).tenant == "alignment"
    for role in (Role.RESEARCHER, Role.LEAD):
        with pytest.raises(Forbidden, match="submits for tenant reasoning"):
            somebody(role).submit(overrides)


def test_a_tenant_cant_be_smuggled_in_as_a_sweep(somebody: AsSomebody, store: Store) -> None:
    before = store.studies()
    with pytest.raises(ConfigError, match=r"study\.tenant=alignment,reasoning: one study has one"):
        somebody(Role.RESEARCHER).submit([*TASK, "study.tenant=alignment,reasoning"])
    assert store.studies() == before


def test_a_refused_config_runs_nothing(somebody: AsSomebody, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sneaky.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef load(*_): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"^task.loader="):
        somebody(Role.ADMIN).submit(["task.loader=sneaky:load"])
    assert not (tmp_path / "ran").exists()


def test_too_many_variants_are_refused_with_those_of_the_studys_own_sweep(somebody: AsSomebody) -> None:
    # Its sweep is of 2 x 2 x 4; the command line alone asks for 3.
    operations = somebody(Role.ADMIN, access(max_variants=20))
    with pytest.raises(ConfigError, match="48 variants; a study has 1 to 20"):
        operations.submit(["study=rl_vs_sft", "model.d_model=32,64,128"])


def test_a_clone_is_held_to_what_a_study_is(somebody: AsSomebody, store: Store) -> None:
    operations = somebody(Role.RESEARCHER)
    trial_id = f"{operations.submit(TASK).study_id}-0000"
    for refused in ("task.loader=os:system", "task.path=/etc/passwd", "seed=${oc.env:HOME}", "cluster=local"):
        with pytest.raises(ConfigError):
            operations.clone(trial_id, [refused], warm=False)
    command_id = operations.clone(trial_id, ["optimizer.lr=0.5"], warm=True)
    payload = store.command(command_id).payload
    assert payload["warm"] is True
    assert payload["variant"]["config"]["optimizer"]["lr"] == 0.5


def test_what_a_loader_raises_is_a_refusal(somebody: AsSomebody) -> None:
    # The data set asserts that its bounds are in order.
    with pytest.raises(ConfigError):
        somebody(Role.ADMIN).submit([*TASK, "task.options.min_digits=9", "task.options.max_digits=1"])


def test_secrets_are_taken_out_of_what_is_shown(somebody: AsSomebody) -> None:
    operations = somebody(Role.RESEARCHER)
    trial_id = f"{operations.submit(TASK).study_id}-0000"
    command_id = operations.clone(trial_id, ["+deepspeed.extra.api_key=hunter2"], warm=False)
    assert "hunter2" not in repr(operations.answer(command_id))
