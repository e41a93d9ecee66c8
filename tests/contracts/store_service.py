"""What a `ports.Store` promises about the lease, commands, the journal and tokens."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from orchestrator.events import (
    RecordAllocation,
    RecordAnswer,
    RecordPoint,
    RecordStudy,
    RecordTrial,
    StudyFinished,
)
from orchestrator.ports import LeaseLost, Store, TransitionRefused
from orchestrator.schema import (
    CommandKind,
    Holder,
    JournalKind,
    Trial,
    TrialState,
)
from tests.contracts.store_records import (
    HOLDER,
    RIVAL,
    asked,
    contents,
    led,
    line,
    moved,
    new,
    queued,
    refused,
    token,
)
from tests.unit.orchestrator.builders import study, warm_started


class ServiceContract:
    """Subclasses give a `store` fixture."""

    @pytest.fixture
    def trial(self, store: Store) -> Trial:
        return queued(store)

    # --- the lease and its fence -------------------------------------------------------------------------------------

    def test_nobody_ever_led(self, store: Store) -> None:
        lease = store.lease()
        assert (lease.term, lease.beat, lease.beat_at, lease.holder, lease.config) == (0, 0, 0.0, None, {})

    def test_a_lease_is_taken_only_as_it_was_seen(self, store: Store) -> None:
        seen = store.lease()
        taken = store.take_lease(seen, HOLDER, {"packing": {"name": "best_fit"}}, 5.0)
        assert taken == store.lease()
        assert taken is not None
        assert (taken.term, taken.holder, taken.beat_at) == (1, HOLDER, 5.0)
        assert taken.config == {"packing": {"name": "best_fit"}}
        assert store.take_lease(seen, RIVAL, {}, 6.0) is None
        store.renew_lease(taken.term, 7.0)
        assert store.take_lease(taken, RIVAL, {}, 8.0) is None
        assert store.lease().holder == HOLDER

    def test_a_sign_of_life_moves_the_beat(self, store: Store) -> None:
        term = led(store)
        before = store.lease()
        store.renew_lease(term, 9.0)
        assert store.lease() == replace(before, beat=before.beat + 1, beat_at=9.0)
        store.apply([], term=term, batch=1)
        assert store.lease().beat == before.beat + 2

    def test_a_lease_that_was_given_back_can_be_taken(self, store: Store) -> None:
        term = led(store)
        store.release_lease(term, 9.0)
        assert store.lease().holder is None
        taken = store.take_lease(store.lease(), RIVAL, {}, 10.0)
        assert taken is not None
        assert taken.term == term + 1
        store.release_lease(term, 11.0)
        assert store.lease() == taken

    def test_who_lost_the_lease_can_neither_write_nor_renew(self, store: Store, trial: Trial) -> None:
        term = led(store)
        store.apply([moved(trial, TrialState.RUNNING)], term=term, batch=1)
        store.take_lease(store.lease(), RIVAL, {}, 2.0)
        before, lease = contents(store), store.lease()
        for batch in (1, 2):
            with pytest.raises(LeaseLost):
                store.apply([RecordStudy(study=study("late"))], term=term, batch=batch)
        with pytest.raises(LeaseLost):
            store.renew_lease(term, 9.0)
        assert (contents(store), store.lease()) == (before, lease)

    def test_a_repeated_call_changes_nothing(self, store: Store, trial: Trial) -> None:
        term = led(store)
        records = [moved(trial, TrialState.RUNNING), RecordAllocation(allocation=line("x"))]
        store.apply(records, term=term, batch=1)
        before, lease = contents(store), store.lease()
        store.apply(records, term=term, batch=1)
        assert (contents(store), store.lease()) == (before, lease)
        store.apply([RecordAllocation(allocation=line("y"))], term=term, batch=2)
        assert len(store.allocations()) == 2

    def test_a_refused_call_can_be_made_again_without_what_did_not_fit(self, store: Store, trial: Trial) -> None:
        term = led(store)
        lease = store.lease()
        with pytest.raises(TransitionRefused):
            store.apply([moved(trial, TrialState.PAUSED, TrialState.RUNNING)], term=term, batch=1)
        assert store.lease() == lease
        store.apply([moved(trial, TrialState.RUNNING)], term=term, batch=1)
        assert store.trial(trial.trial_id).state is TrialState.RUNNING

    def test_a_new_term_counts_its_calls_anew(self, store: Store) -> None:
        store.apply([], term=led(store), batch=1)
        term = led(store)
        with pytest.raises(LeaseLost):
            store.apply([RecordStudy(study=study())], term=term, batch=2)
        store.apply([RecordStudy(study=study())], term=term, batch=1)
        assert store.studies() == [study()]

    def test_of_several_that_want_the_lease_one_gets_it(self, store: Store) -> None:
        holders = [replace(HOLDER, pid=n) for n in range(4)]
        for term in range(1, 6):
            seen = store.lease()
            together = threading.Barrier(len(holders))

            def race(holder: Holder, seen: object = seen, together: threading.Barrier = together) -> object:
                together.wait()
                return store.take_lease(seen, holder, {}, 1.0)  # type: ignore[arg-type]

            with ThreadPoolExecutor(len(holders)) as pool:
                won = [lease for lease in pool.map(race, holders) if lease]
            assert won == [store.lease()]
            assert store.lease().term == term

    def test_a_heartbeat_beside_the_loop_loses_nothing(self, store: Store) -> None:
        term = led(store)
        first = store.lease().beat

        def heartbeat() -> None:
            for _ in range(20):
                store.renew_lease(term, 1.0)

        with ThreadPoolExecutor(1) as pool:
            beating = pool.submit(heartbeat)
            for batch in range(1, 21):
                store.apply([RecordStudy(study=study(f"study-{batch:02d}"))], term=term, batch=batch)
            beating.result()
        assert store.lease().beat == first + 40
        assert len(store.studies()) == 20

    # --- commands ----------------------------------------------------------------------------------------------------

    def test_a_command_waits_until_it_is_answered(self, store: Store) -> None:
        ids = [store.submit(asked()), store.submit(asked(CommandKind.CANCEL, "t"))]
        assert ids == sorted(set(ids))
        assert store.pending_commands() == [
            replace(asked(), command_id=ids[0]),
            replace(asked(CommandKind.CANCEL, "t"), command_id=ids[1]),
        ]
        store.apply([RecordAnswer(command_id=ids[0], at=4.0, ok=True, answer="paused 3 trials")])
        answered = replace(asked(), command_id=ids[0], answered_at=4.0, ok=True, answer="paused 3 trials")
        assert store.command(ids[0]) == answered
        assert [c.command_id for c in store.pending_commands()] == ids[1:]

    def test_a_command_is_answered_once(self, store: Store) -> None:
        answer = RecordAnswer(command_id=store.submit(asked()), at=4.0, ok=True, answer="")
        store.apply([answer])
        refused(store, [answer], "it is answered already")
        refused(store, [replace(answer, command_id=99)], "command 99: there is none")

    def test_a_study_is_submitted_with_its_trials_and_its_command(self, store: Store) -> None:
        trials = warm_started(3)
        command_id = store.submit(asked(CommandKind.SUBMIT), RecordStudy(study=study()), new(*trials))
        assert store.pending_commands() == [replace(asked(CommandKind.SUBMIT), command_id=command_id)]
        assert store.study("study-1") == study()
        assert store.trials("study-1") == list(trials)
        assert store.journal_end() == 0

    def test_a_submission_that_does_not_fit_leaves_nothing(self, store: Store, trial: Trial) -> None:
        before = contents(store)
        with pytest.raises(TransitionRefused, match="expected none, found queued"):
            store.submit(asked(CommandKind.SUBMIT), RecordStudy(study=study("study-2")), new(trial))
        assert contents(store) == before

    # --- the journal -------------------------------------------------------------------------------------------------

    def test_the_journal_tells_what_happened_in_the_order_of_the_records(self, store: Store) -> None:
        (trial,) = warm_started(1)
        running = replace(moved(trial, TrialState.RUNNING, latest={"loss": 0.5}), why="placed on node-a/cpu0")
        progress = RecordTrial(trial=running.trial, was=TrialState.RUNNING, at=3.0, track=False)
        point = RecordPoint(study_id="study-1", trial_id=trial.trial_id, step=7, metrics={"loss": 0.25}, at=4.0)
        over = replace(study(), ended_at=5.0)
        finished = StudyFinished(metrics={"decided": 1.0}, artifacts=("report.html",))
        store.apply([RecordStudy(study=study()), *new(trial)])
        store.apply([running, progress, point, RecordStudy(study=over, finished=finished)])
        entries = store.journal(0, 100)
        assert [(e.kind, e.study_id, e.trial_id, e.at) for e in entries] == [
            (JournalKind.STUDY, "study-1", "", 0.0),
            (JournalKind.TRIAL, "study-1", trial.trial_id, 1.0),
            (JournalKind.TRIAL, "study-1", trial.trial_id, 2.0),
            (JournalKind.POINT, "study-1", trial.trial_id, 4.0),
            (JournalKind.FINISHED, "study-1", "", 5.0),
        ]
        assert entries[0].payload == {}
        assert entries[1].payload["was"] == ""
        assert entries[3].payload == {"step": 7, "metrics": {"loss": 0.25}}
        assert entries[4].payload == {"metrics": {"decided": 1.0}, "artifacts": ["report.html"]}

    def test_the_journal_has_a_trial_as_it_was_then(self, store: Store, trial: Trial) -> None:
        running = replace(moved(trial, TrialState.RUNNING, reused_stages=("k",), started_at=2.0), why="placed")
        store.apply([running])
        store.apply([moved(running.trial, TrialState.COMPLETED)])
        payload = dict(store.journal(0, 9)[2].payload)
        assert (payload.pop("was"), payload.pop("why")) == ("queued", "placed")
        fields = payload | {"state": TrialState(payload["state"]), "reused_stages": tuple(payload["reused_stages"])}
        fields["evaluations"] = tuple(fields["evaluations"])
        ids = {"trial_id": trial.trial_id, "study_id": trial.study_id}
        assert Trial(variant=trial.variant, **ids, **fields) == running.trial

    def test_the_journal_is_read_on_from_where_one_stopped(self, store: Store) -> None:
        points = [RecordPoint(study_id=f"s{n % 2}", trial_id=f"t{n % 3}", step=n, metrics={}, at=1.0) for n in range(9)]
        store.apply(points[:4])
        store.apply(points[4:])
        everything = store.journal(0, 100)
        assert [e.payload["step"] for e in everything] == list(range(9))
        assert [e.sequence for e in everything] == sorted({e.sequence for e in everything})
        assert store.journal(everything[3].sequence, 2) == everything[4:6]
        assert store.journal(everything[2].sequence, 2, trial_id="t1") == [everything[4], everything[7]]
        assert store.journal_end() == everything[8].sequence
        assert store.journal_end("s1") == everything[7].sequence
        assert store.journal_end("nope") == 0

    def test_points_that_the_tracker_has_leave_the_journal(self, store: Store, trial: Trial) -> None:
        def point(step: int) -> RecordPoint:
            return RecordPoint(study_id="study-1", trial_id=trial.trial_id, step=step, metrics={}, at=1.0)

        assert store.forwarded() == 0
        store.apply([point(1), moved(trial, TrialState.RUNNING), point(2), point(3)])
        entries = store.journal(0, 100)
        store.set_forwarded(entries[-2].sequence)
        assert store.forwarded() == entries[-2].sequence
        kept = [e for e in entries[:-2] if e.kind is not JournalKind.POINT] + [entries[-1]]
        assert store.journal(0, 100) == kept
        assert store.journal(store.forwarded(), 100) == entries[-1:]

    def test_a_number_of_the_journal_is_never_given_out_again(self, store: Store) -> None:
        point = RecordPoint(study_id="study-1", trial_id="t", step=1, metrics={}, at=1.0)
        store.apply([point, point])
        last = store.journal_end()
        store.set_forwarded(last)
        assert store.journal(0, 100) == []
        store.apply([point])
        assert store.journal_end() == last + 1
        assert [e.sequence for e in store.journal(store.forwarded(), 100)] == [last + 1]

    # --- tokens ------------------------------------------------------------------------------------------------------

    def test_a_token_is_found_by_its_digest_also_when_it_is_revoked(self, store: Store) -> None:
        store.add_token(token())
        assert store.token("digest of ann") == token()
        assert store.token("another") is None
        store.revoke_token("ann", 5.0)
        store.revoke_token("ann", 6.0)
        assert store.token("digest of ann") == replace(token(), revoked_at=5.0)

    def test_a_name_is_given_to_one_token(self, store: Store) -> None:
        store.add_token(token("bob"))
        store.add_token(token("ann"))
        with pytest.raises(KeyError, match="bob"):
            store.add_token(replace(token("bob"), digest="other"))
        assert store.tokens() == [token("ann"), token("bob")]

    def test_a_token_that_is_unknown_can_not_be_revoked(self, store: Store) -> None:
        with pytest.raises(KeyError, match="nobody"):
            store.revoke_token("nobody", 1.0)

    def test_nothing_to_record_is_fine(self, store: Store) -> None:
        store.apply([])
        assert store.studies() == []
