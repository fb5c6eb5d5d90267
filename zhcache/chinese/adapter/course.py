"""A training from its pairs to the finished folder: prepared, run, measured, written.

Its unfinished state lies in a work folder, so that the same command goes on after whatever ended
it. Imports torch.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import torch

from zhcache import __version__
from zhcache.chinese import wording
from zhcache.chinese.adapter import checkpoint, network, preparing, result
from zhcache.chinese.adapter import format as described
from zhcache.chinese.adapter import student as students
from zhcache.chinese.adapter.measuring import quality
from zhcache.chinese.adapter.plan import Plan, Stage, Told, Trained
from zhcache.chinese.adapter.quiet import quiet
from zhcache.chinese.adapter.teacher import open_teacher
from zhcache.chinese.adapter.training import EMPTY, Batches, Pace, Training, asked
from zhcache.client import Client
from zhcache.errors import Cancelled

_TOLD_EVERY_S = 1.0
_MEASURED_ON = 2048
_READ = 200_000
_RESULT = "adapter"

Tell = Callable[[Told], object]


def train(
    client: Client, plan: Plan, tell: Tell, is_stopped: Callable[[], bool] = lambda: False
) -> Trained:
    """Trains an adapter and returns the folder it lies in, inside ``plan.work``.

    Args:
        client: The daemon's whose store has the base model.
        plan: What is wanted.
        tell: Told how it goes.
        is_stopped: Asked after each step; True keeps the state and ends.

    Raises:
        Cancelled: It was stopped; the same plan goes on.
        Busy: Another process trains in the same work folder.
        UsageError: What is asked cannot be meant, or an unfinished training is another one.
        NotFound: The base model, the encoder, the pairs, or what is to be resumed are not there.
        IntegrityError: The pairs, the encoder or the unfinished training are spoilt.
    """
    plan.check()
    with preparing.alone(plan.work), quiet():
        course = _Course(client, plan, tell)
        course.run(is_stopped)
        return course.finish()


class _Course:
    """One training on its way."""

    def __init__(self, client: Client, plan: Plan, tell: Tell) -> None:
        self._plan = plan
        self._tell = tell
        state = preparing.unfinished(plan)
        device = preparing.device_of(plan.device)
        self._autocast = preparing.autocast_of(plan.precision, device)
        self._pairs, held_sha256 = preparing.pairs_of(plan, tell)
        tell(Told(stage="teacher"))
        self._teacher = open_teacher(client, plan.repo, plan.revision, device)
        sha256 = self._pairs.training.sha256
        self._recipe = plan.recipe(sha256, held_sha256, self._teacher.about)
        if state is not None:
            checkpoint.check(state, self._recipe, plan.work)
        self._wording: Callable[[str], str] = wording.plain if plan.simplified else str
        self._steps = plan.steps_for(len(self._pairs.training))
        self._network = described.Network(
            layers=plan.layers, heads=plan.width // 32, width=plan.width
        )
        self._training = self._begun(client, device)
        self._batches = Batches(self._pairs, plan.batch, plan.seed)
        if state is None:
            tell(Told(stage="measuring"))
            texts = preparing.spread(self._pairs.training, _MEASURED_ON)
            resampler = self._training.student.resampler
            students.measure(resampler, self._teacher, [*(one.en for one in texts), EMPTY.en])
        else:
            self._restore(state)

    def _begun(self, client: Client, device: torch.device) -> Training:
        plan = self._plan
        texts = [self._wording(one.zh) for one in preparing.spread(self._pairs.training, _READ)]
        torch.manual_seed(plan.seed)
        if plan.encoder is None:
            self._reader = students.new_reader(texts, plan.width, plan.layers)
        else:
            folder = preparing.encoder_folder(client, plan.encoder)
            self._reader = students.known_reader(folder, texts)
        student = students.student(self._reader, self._teacher, self._network).to(device)
        return Training(
            student,
            self._reader,
            self._teacher,
            Pace(self._steps, plan.batch, plan.rate, plan.seed, self._autocast),
            is_frozen=plan.is_frozen,
            wording=self._wording,
        )

    def _restore(self, state: checkpoint.State) -> None:
        try:
            self._training.restore(state.step, state.tensors)
        except (KeyError, RuntimeError) as error:
            where = self._plan.work / checkpoint.FILE
            raise checkpoint.spoilt(where, str(error)) from None
        self._tell(Told(stage="resumed", step=state.step, steps=self._steps))

    def run(self, is_stopped: Callable[[], bool]) -> None:
        """Makes the steps that are left.

        Raises:
            Cancelled: It was stopped; the state is kept.
        """
        training = self._training
        began = training.step
        start = told = kept = time.monotonic()
        losses: list[torch.Tensor] = []
        self._report("training", losses, 0.0, measured=self._measured())
        # What is told and kept is none of training's time.
        beside = time.monotonic() - start
        while training.step < self._steps:
            losses.append(training.advance(self._batches.of(training.step)))
            if is_stopped():
                self._keep()
                raise Cancelled(
                    "stopped after step {step} of {steps}",
                    hint="the same command goes on from there",
                    step=training.step,
                    steps=self._steps,
                )
            now = time.monotonic()
            speed = (training.step - began) / max(now - start - beside, 1e-6)
            if now - kept >= self._plan.checkpoint_s:
                self._keep()
                self._report("training", losses, speed, measured=self._measured())
                told = kept = time.monotonic()
                beside += kept - now
            elif now - told >= _TOLD_EVERY_S:
                self._report("training", losses, speed)
                told = now
        # Before it is measured and written: neither shall take back what was learnt.
        self._keep()

    def finish(self) -> Trained:
        """Writes the folder, and measures what was written."""
        plan, folder = self._plan, self._plan.work / _RESULT
        shutil.rmtree(folder, ignore_errors=True)
        student = self._training.settle()
        result.write_weights(folder, student, self._reader, is_frozen=plan.is_frozen)
        unknown = described.Quality(heldout_error=1.0, retrieval=0.0, pairs=0)
        result.write_description(folder, self._described(unknown), plan.command)
        written = network.load(folder).student.to(student.resampler.queries.device)
        measured = self._quality(
            lambda texts: asked(written, self._reader, [self._wording(text) for text in texts])
        )
        about = self._described(measured)
        result.write_description(folder, about, plan.command)
        self._report("done", [], 0.0, measured=measured)
        return Trained(folder=folder, about=about, steps=self._steps)

    def _keep(self) -> None:
        training = self._training
        state = checkpoint.State(training.step, training.tensors(), self._recipe)
        checkpoint.save(self._plan.work, state)

    def _measured(self) -> described.Quality:
        return self._quality(self._training.ask)

    def _quality(self, ask: Any) -> described.Quality:
        resampler = self._training.student.resampler
        return quality(ask, self._teacher, resampler, self._pairs.held)

    def _report(
        self,
        stage: Stage,
        losses: list[torch.Tensor],
        speed: float,
        measured: described.Quality | None = None,
    ) -> None:
        step = self._training.step
        self._tell(
            Told(
                stage=stage,
                step=step,
                steps=self._steps,
                loss=float(torch.stack(losses).mean()) if losses else None,
                heldout_error=measured.heldout_error if measured else None,
                retrieval=measured.retrieval if measured else None,
                pairs_per_s=speed * self._plan.batch if speed else None,
                left_s=(self._steps - step) / speed if speed else None,
            )
        )
        losses.clear()

    def _described(self, measured: described.Quality) -> described.Described:
        plan, training = self._plan, self._pairs.training
        return described.Described(
            name=plan.name,
            base=self._teacher.about,
            arguments=self._teacher.arguments,
            encoder=self._reader.about,
            network=self._network,
            trained_on=described.TrainedOn(
                pairs=len(training), sha256=training.sha256, description=plan.description
            ),
            quality=measured,
            simplified=plan.simplified,
            zhcache=__version__,
        )
