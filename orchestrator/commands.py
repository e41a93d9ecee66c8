"""What people ask of studies and trials, carried out by whoever leads.

A command stays in the store, unanswered, until it has taken effect: handling it twice does no harm, so a leader that
dies half-way leaves it to the next one. The answer is committed together with the last of its effects.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from orchestrator.estimate import stage_demands
from orchestrator.events import (
    HaltRequested,
    Instruction,
    QueueRequested,
    RecordAnswer,
    RecordStudy,
    StudySubmitted,
    TrialExtended,
    TrialsAdded,
)
from orchestrator.keys import warm_variant
from orchestrator.ports import Clock, Cluster, LeaderStore, StoreUnavailable
from orchestrator.recovery import demands_of, restore_study, reusable_stages, stages_of_trials
from orchestrator.schema import (
    Command,
    CommandKind,
    Demand,
    DeviceKind,
    Outcome,
    Stage,
    Study,
    Trial,
    TrialState,
    Variant,
)
from orchestrator.search import is_search
from orchestrator.state import SchedulerState
from orchestrator.variants import variant_from_data

_HALTS = {CommandKind.PAUSE: TrialState.PAUSED, CommandKind.CANCEL: TrialState.CANCELLED}


class Refused(Exception):
    """A command that can't be followed; the message is the answer."""


class CommandDesk:
    """Turns commands into events of the machine, and their effects into answers."""

    def __init__(self, state: SchedulerState, store: LeaderStore, cluster: Cluster, clock: Clock) -> None:
        self._state = state
        self._store = store
        self._cluster = cluster
        self._clock = clock

    def handle(self, commands: Sequence[Command]) -> list[Instruction]:
        """What follows now from pending commands, oldest first; the answers of those that have taken effect are among
        it. Of a study one is carried out after the other: a `resume` waits until the `pause` before it is done."""
        instructions: list[Instruction] = []
        busy: set[str] = set()
        for command in commands:
            try:
                study_id = self._study_of(command.target)
            except StoreUnavailable:
                break
            if study_id in busy:
                continue
            answer = self._handle(command, instructions)
            if answer is None:
                busy.add(study_id)
            else:
                instructions.append(answer)
        return instructions

    def _handle(self, command: Command, instructions: list[Instruction]) -> RecordAnswer | None:
        """Adds to `instructions` what follows; the answer, or None if the command has to wait."""
        try:
            answer = self._follow(command, instructions)
        except Refused as refusal:
            return self._answer(command, str(refusal), ok=False)
        except StoreUnavailable:
            return None  # it reads before it changes anything: another cycle will do
        except OSError as error:
            return self._answer(command, f"can't be done now: {error}", ok=False)
        except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            # A command that can't be read must not stop the loop, this time and every time after.
            return self._answer(command, f"can't be read: {type(error).__name__}: {error}", ok=False)
        return None if answer is None else self._answer(command, answer)

    def outputs_at_hand(self, stage_keys: Iterable[str]) -> dict[str, Outcome]:
        """Completed stages whose output is still there, with the outcome they gave."""
        known = self._store.completed_stages(sorted(stage_keys))
        there = self._cluster.available_outputs(list(known))
        return {key: outcome for key, outcome in known.items() if key in there}

    def _answer(self, command: Command, answer: str, *, ok: bool = True) -> RecordAnswer:
        return RecordAnswer(command_id=command.command_id, at=self._clock.now(), ok=ok, answer=answer)

    def _follow(self, command: Command, instructions: list[Instruction]) -> str | None:
        if command.kind is CommandKind.SUBMIT:
            return self._submit(command, instructions)
        trials = self._targets(command.target, instructions)
        match command.kind:
            case CommandKind.PAUSE | CommandKind.CANCEL:
                return self._halt(command, trials, instructions)
            case CommandKind.RESUME | CommandKind.RETRY:
                return self._queue_again(command, trials, instructions)
            case CommandKind.CLONE:
                return self._clone(command, self._one(command, trials), instructions)
            case CommandKind.EXTEND:
                return self._extend(command, self._one(command, trials), instructions)

    # --- whom it is about --------------------------------------------------------------------------------------------

    def _study_of(self, target: str) -> str:
        """The id of the study that a study's or a trial's id belongs to; the target itself if there is none."""
        if target in self._state.trials:
            return self._state.trials[target].study_id
        if target in self._state.studies:
            return target
        try:
            return self._store.trial(target).study_id
        except KeyError:
            return target

    def _targets(self, target: str, instructions: list[Instruction]) -> list[Trial]:
        """The trials of a study's or a trial's id. A study that ended in an earlier term is read from the store."""
        study_id = self._study_of(target)
        if study_id not in self._state.studies:
            try:
                study = self._store.study(study_id)
            except KeyError:
                raise Refused(f"there is no study or trial {target}") from None
            lines = self._store.allocations(study_id)
            instructions += restore_study(self._state, self._store, study, self.outputs_at_hand, self._clock.now())
            # As use they were counted when this term began, or when they were closed in it.
            self._state.restore_lines(study_id, lines)
        if target == study_id:
            return self._state.study_trials(study_id)
        return [self._state.trials[target]]

    def _one(self, command: Command, trials: Sequence[Trial]) -> Trial:
        if len(trials) != 1:
            raise Refused(f"{command.kind} takes one trial; {command.target} has {len(trials)}")
        return trials[0]

    # --- what it asks for --------------------------------------------------------------------------------------------

    def _submit(self, command: Command, instructions: list[Instruction]) -> str | None:
        devices = self._state.room.devices
        if not devices:
            return None  # what kind of device it runs on is not known yet
        study = replace(self._store.study(command.target), device_kind=next(iter(devices.values())).kind)
        trials = tuple(self._store.trials(study.study_id))
        tenant = self._state.tenants.get(study.tenant)
        unknown = self._state.tenants and tenant is None
        answer = f"{len(trials)} trials queued"
        if tenant is not None and study.priority > tenant.max_priority:
            answer += f"; priority {study.priority} is above tenant {study.tenant}'s highest and was set to "
            answer += str(tenant.max_priority)
            study = replace(study, priority=tenant.max_priority)
        kind = study.device_kind or DeviceKind.CPU
        prefixes = reusable_stages(trials) if study.reuses_stages else set()
        event = StudySubmitted(
            at=self._clock.now(),
            study=study,
            trials=trials,
            demands=demands_of(study, stages_of_trials(trials), kind),
            # A variant's last stage always runs: it is the experiment that was asked for.
            available_stages=self.outputs_at_hand(prefixes),
        )
        instructions += self._state.handle(event)
        if unknown:
            known = ", ".join(sorted(self._state.tenants))
            reason = f"study.tenant={study.tenant}: no such tenant; there is: {known}"
            instructions += self._state.handle(self._halt_event(trials, TrialState.CANCELLED, reason))
            raise Refused(reason)
        return answer

    def _halt(self, command: Command, trials: Sequence[Trial], instructions: list[Instruction]) -> str | None:
        into = _HALTS[command.kind]
        # What a stopping policy holds is a person's only if it is meant by its own name.
        named = command.target not in self._state.studies
        concerned = [t for t in trials if t.state.may_become(into) and (t.state is not into or (named and t.held))]
        by = f" by {command.author}" if command.author else ""
        instructions += self._state.handle(self._halt_event(concerned, into, f"{into}{by}"))
        stops_asking = self._set_halted(command.target, into, instructions)
        if any(trial.trial_id in self._state.leaving for trial in trials):
            return None
        counts = self._counts(trials)
        if (
            command.kind is CommandKind.PAUSE
            and not stops_asking
            and not any(self._state.trials[t.trial_id].state is TrialState.PAUSED for t in trials)
        ):
            raise Refused(f"nothing to pause: {counts}")
        return counts

    def _set_halted(self, target: str, halted: str, instructions: list[Instruction]) -> bool:
        """Keep what a person said of a study that is searched as a whole. Whether `target` is one of which something
        else was said before, or the same and there is more to ask for."""
        study = self._state.studies.get(target)
        if study is None or not is_search(study) or (study.ended_at is not None and halted):
            return False
        if study.halted == halted:
            return bool(halted)
        instructions += self._state.reopen(target, self._clock.now())
        study = self._state.studies[target] = replace(self._state.studies[target], halted=str(halted))
        self._state.touch(target)
        instructions.append(RecordStudy(study=study, at=self._clock.now()))
        return True

    def _halt_event(self, trials: Iterable[Trial], into: TrialState, reason: str) -> HaltRequested:
        trial_ids = tuple(trial.trial_id for trial in trials)
        return HaltRequested(at=self._clock.now(), trial_ids=trial_ids, into=into, reason=reason)

    def _queue_again(self, command: Command, trials: Sequence[Trial], instructions: list[Instruction]) -> str:
        retry = command.kind is CommandKind.RETRY
        wanted = (TrialState.FAILED, TrialState.CANCELLED) if retry else (TrialState.PAUSED,)
        named = command.target not in self._state.studies
        trial_ids = tuple(trial.trial_id for trial in trials if trial.state in wanted and (named or not trial.held))
        asks_again = self._set_halted(command.target, "", instructions)
        if not trial_ids and not asks_again:
            what = "failed or cancelled" if retry else "paused"
            raise Refused(f"nothing to {command.kind}: no trial is {what} ({self._counts(trials)})")
        instructions += self._state.handle(QueueRequested(at=self._clock.now(), trial_ids=trial_ids, retry=retry))
        return f"{len(trial_ids)} waiting again ({self._counts(trials)})"

    def _clone(self, command: Command, parent: Trial, instructions: list[Instruction]) -> str:
        variant = variant_from_data(command.payload["variant"])
        if command.payload.get("warm"):
            variant = self._warm(parent, variant)
        study = self._state.studies[parent.study_id]
        number = 1 + max(trial.number for trial in self._state.study_trials(study.study_id))
        now = self._clock.now()
        trial = Trial(
            trial_id=f"{study.study_id}-{number:04d}",
            study_id=study.study_id,
            number=number,
            variant=variant,
            submitted_at=now,
            queued_at=now,
            cloned_from=parent.trial_id,
        )
        event = TrialsAdded(
            at=now,
            trials=(trial,),
            demands=self._demands(study, variant),
            available_stages=self.outputs_at_hand({stage.key for stage in variant.stages[:-1]}),
        )
        start = (
            f", from step {variant.stages[-1].warm_step} of {parent.trial_id}" if command.payload.get("warm") else ""
        )
        instructions += self._state.handle(event)
        return f"{trial.trial_id} queued{start}"

    def _extend(self, command: Command, trial: Trial, instructions: list[Instruction]) -> str | None:
        variant = variant_from_data(command.payload["variant"])
        steps, had = variant.stages[-1].budget_steps, trial.variant.stages[-1].budget_steps
        if steps <= had:
            raise Refused(f"{trial.trial_id} has {had} steps already; give more than that, not {steps}")
        if [stage.key for stage in variant.before_last] != [stage.key for stage in trial.variant.before_last]:
            raise Refused("its earlier stages are other ones by now (code, data or packages changed); clone it")
        if trial.state in (TrialState.QUEUED, TrialState.RUNNING):
            reason = f"to be extended to {steps} steps"
            instructions += self._state.handle(self._halt_event([trial], TrialState.PAUSED, reason))
            trial = self._state.trials[trial.trial_id]
            if trial.state is TrialState.RUNNING:
                return None
        if trial.stage_index >= len(trial.variant.before_last):
            kept = self._kept(trial)
            if kept is not None:
                variant = warm_variant(variant, *kept)
        event = TrialExtended(
            at=self._clock.now(),
            trial_id=trial.trial_id,
            variant=variant,
            demands=self._demands(self._state.studies[trial.study_id], variant),
        )
        instructions += self._state.handle(event)
        start = variant.stages[-1].warm_step
        return f"{steps} steps instead of {had}, from step {start} on"

    def _warm(self, parent: Trial, variant: Variant) -> Variant:
        """Raises Refused if the parent has no checkpoint that the variant could start from."""
        mine, theirs = variant.stages, parent.variant.stages
        before, theirs_before = variant.before_last, parent.variant.before_last
        if [stage.key for stage in before] != [stage.key for stage in theirs_before]:
            pairs = zip(before, theirs_before, strict=False)
            changed = next((a.name for a, b in pairs if a.key != b.key), mine[0].name)
            raise Refused(f"a warm clone changes its last stage only, and this changes stage {changed}; clone it cold")
        if mine[-1].entrypoint != theirs[-1].entrypoint:
            raise Refused("a warm clone keeps its parent's algorithm, whose checkpoint it starts from; clone it cold")
        kept = self._kept(parent)
        if kept is None:
            raise Refused(
                f"{parent.trial_id} has no checkpoint of its last stage yet; pause it first, or clone it cold"
            )
        return warm_variant(variant, *kept)

    def _kept(self, trial: Trial) -> tuple[str, int] | None:
        """The newest checkpoint of a trial's last stage, or of the part of its trunk that it has come to; else what
        that stage itself starts from; None if there is neither."""
        stages = trial.variant.stages
        for stage in reversed(stages[len(trial.variant.before_last) : trial.stage_index + 1]):
            kept = self._kept_of(trial, stage)
            if kept is not None:
                return kept
        return (stages[-1].warm_from, stages[-1].warm_step) if stages[-1].warm_from else None

    def _kept_of(self, trial: Trial, stage: Stage) -> tuple[str, int] | None:
        """The newest checkpoint of a trial's stage, under whichever study it was run."""
        runs = {trial.study_id: 0.0} | {
            line.study_id: line.opened_at
            for line in self._state.ledger.concerning(trial.study_id)
            if line.stage_key == stage.key and trial.trial_id in line.trial_ids
        }
        for study_id in sorted(runs, key=lambda study_id: -runs[study_id]):
            kept = self._cluster.keep_checkpoint(study_id, stage.key)
            if kept is not None:
                return kept
        return None

    def _demands(self, study: Study, variant: Variant) -> dict[str, Demand]:
        return stage_demands(variant.stages, study.config["cluster"], study.device_kind or DeviceKind.CPU)

    def _counts(self, trials: Iterable[Trial]) -> str:
        states = [self._state.trials[trial.trial_id].state for trial in trials]
        return ", ".join(f"{states.count(state)} {state}" for state in TrialState if state in states)
