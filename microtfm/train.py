"""Training: portions of text in, a run folder out.

The result is a function of the settings, the text and the number of steps: a run that was stopped and resumed ends with
the same bytes as one that went through.
"""
from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import engine
from microtfm import breakdown, checkpoint, curves, kept, metrics, optim, reference, state
from microtfm import material as materials
from microtfm.architecture import Model, build, describe
from microtfm.checkpoint import Checkpoint
from microtfm.data import Batch, TextPair
from microtfm.diagnosis import Finding
from microtfm.divergence import diverged
from microtfm.errors import UserError
from microtfm.events import Events, Opening
from microtfm.files import PathLike
from microtfm.learner import Learner
from microtfm.material import Material, Texts
from microtfm.metrics import Metrics, keep_until
from microtfm.optim import rate
from microtfm.place import computing, say_where
from microtfm.run_folder import RunFolder, check_free, free_folder, new_model, run_code
from microtfm.settings import Settings
from microtfm.state import Progress
from microtfm.stopping import Stopped, Stopping
from microtfm.threads import default_threads
from microtfm.validation import Validation, validate

REMIND = 5                               # validations after which a lasting finding is told again
DRAW_EVERY = 60.0                        # seconds between drawings of the curves, at least


@dataclass(frozen=True)
class Result:
    """How a run ended.

    folder: of the run. step: the last update that was saved. best: step, valid_loss, bleu and chrf of the best
    validation; empty before the first. reason: "steps", "minutes", "patience" or "stopped". signal: the number of the
    one that stopped it; None: none did. seconds: wall time of this command and of those before it on the run.
    """

    folder: Path
    step: int
    best: dict[str, Any]
    reason: str
    signal: int | None
    seconds: float


def train(settings: Settings, events: Events | None = None, corpus: tuple[list[TextPair], list[TextPair]] | None = None,
          started: float | None = None) -> Result:
    """Train a new model in a new run folder.

    corpus: training and validation pairs, instead of the files that the settings name. started: `time.monotonic()` when
    the command began, from which train.minutes counts. Raises UserError for everything a person can put right; nothing
    is left half-made.
    """
    started = time.monotonic() if started is None else started
    with computing(settings.device, settings.precision) as place:
        return _train(settings, events or Events(), corpus, started, place)


def _train(settings: Settings, events: Events, corpus: tuple[list[TextPair], list[TextPair]] | None, started: float,
           place: str) -> Result:
    out = settings.out if settings.out is not None else free_folder(Path("runs/run"))
    check_free(out, settings.force)
    first = RunFolder.open(settings.init) if settings.init is not None else None
    if first is not None:
        settings = replace(settings, model=first.settings.model, tokens=replace(
            first.settings.tokens, piece_length=settings.tokens.piece_length))
    texts = Texts(*corpus) if corpus is not None else materials.read(settings)
    source, target, said = (*first.tokenizers(), []) if first is not None else materials.tokenizers(texts, settings)
    material = materials.prepare(texts, settings, source, target)
    say_where(settings.device, place, events.placed)
    if first is not None:
        events.notice(f"Starting from {first.path}: its weights, tokenizer, model and token settings are taken.")
    for notice in [*said, *material.report]:
        events.notice(notice)
    engine.seed(settings.seed)
    model = build(settings.model, len(source), len(target)) if first is None else first.load_model()
    if settings.tokens.piece_length is None:
        usual = materials.piece_length(texts, material)
        settings = replace(settings, tokens=replace(settings.tokens, piece_length=usual))
    settings = _resolved(settings, out, corpus is not None)
    run = RunFolder(out, settings, run_code(settings, source, target, material.digest, model.state_dict()))
    files = {"train.tsv": texts.train, "valid.tsv": texts.valid} if corpus is not None else {}
    training = _Training(run, material, model, events, started, place)
    with run.claim(), Stopping(events.stopping) as stopping:
        texts_kept = files | ({"held-out.tsv": texts.valid} if texts.held_out else {})
        run.create(source, target, texts_kept, lambda new: training.save_to(new.state))
        return training.run_all(stopping)


def resume(folder: PathLike, events: Events | None = None, started: float | None = None,
           changes: Mapping[str, Any] | None = None, device: str | None = None, precision: str | None = None) -> Result:
    """Go on with a run from its last checkpoint, exactly as if it had not been stopped.

    changes: train settings that are other from here on, such as {"steps": 20_000}; device and precision: another from
    here on, which rounds otherwise; the rest stays as it was. started: as for `train`. Raises UserError for everything
    a person can put right: no run there, nothing to resume, a damaged checkpoint or one of another run, training text
    that is missing or not what it was, a folder that another process holds, a setting that does not exist or cannot be
    changed; DeviceError where the device cannot be used.
    """
    events, started = events or Events(), time.monotonic() if started is None else started
    before = RunFolder.open(folder)
    run = before.changed(changes, device, precision)
    settings, command = run.settings, f"microtfm resume {run.path}"
    with computing(settings.device, settings.precision, command) as place:
        return _resume(run, before.settings, events, started, place)


def _resume(run: RunFolder, before: Settings, events: Events, started: float, place: str) -> Result:
    settings = run.settings
    source, target = run.tokenizers()
    material = materials.prepare(materials.read(settings), settings, source, target)
    with run.claim(), Stopping(events.stopping) as stopping:
        saved = state.read(run.state, {**run.identity(source, target), "data": material.digest})
        training = _Training(run, material, new_model(settings.model, source, target), events, started, place)
        training.take_up(saved)
        say_where(settings.device, place, events.placed)
        if settings.train.batch_tokens != before.train.batch_tokens:
            training.progress.epoch, training.progress.index = training.progress.epoch + 1, 0
            events.notice("Other batches than before: the run goes on with a new pass over the text.")
        if settings != before:
            run.write_config()
        return training.run_all(stopping)


def _resolved(settings: Settings, out: Path, own_text: bool) -> Settings:
    """The settings as config.toml keeps them: nothing left open, paths that hold from anywhere."""
    def fixed(path: Path | None) -> Path | None:
        return path.absolute() if path is not None else None

    if own_text:
        settings = replace(settings, src=out / "train.tsv", valid_src=out / "valid.tsv")
    return replace(settings, src=fixed(settings.src), tgt=fixed(settings.tgt), valid_src=fixed(settings.valid_src),
                   valid_tgt=fixed(settings.valid_tgt), init=fixed(settings.init), out=fixed(out),
                   train=replace(settings.train, steps=settings.train.last_step))


class _Training:
    """One run from a state to its end."""

    def __init__(self, run: RunFolder, material: Material, model: Model, events: Events, started: float,
                 place: str) -> None:
        self.run, self.material, self.model, self.events, self.place = run, material, model, events, place
        self.progress = Progress()
        self.settings = run.settings
        self.optimiser = optim.chosen(model.named_parameters(), self.settings.train)
        self.learner = Learner(model, self.optimiser, self.settings.train)
        self.identity = {**run.identity(material.source, material.target), "data": material.digest}
        self.started, self.spent = started, 0.0           # spent: seconds of earlier commands on this run
        self.saved = (-1, 0)                              # step and last validated step of the state on the disk
        self.drawn = started                              # when the curves were last drawn
        self.slowest = 0.0                                # seconds of the longest validation
        self.busy, self.tokens = 0.0, 0                   # seconds and tokens of updates since the last line
        self.reference = reference.of(self.settings)      # curves of earlier runs
        self.told: dict[str, int] = {}                    # what stands out in translations, for how many validations

    def take_up(self, saved: Checkpoint) -> None:
        """Go on from the run's saved state."""
        self.progress = state.restore(saved, self.run.state, self.model, self.optimiser)
        kept.forget_after(self.run.path, self.progress.validated)
        lines = keep_until(self.run.metrics, self.progress.step, self.progress.validated)
        self.spent = max((float(line.get("seconds", 0)) for line in lines), default=0.0)
        self.saved = (self.progress.step, self.progress.validated)
        if self.progress.best.get("step") == self.progress.step != self._model_step():
            with self.optimiser.averaged():              # the process died before it was written
                self._write_model(self.model.state_dict())
        ending = self._ending()
        if ending is not None and self.progress.validated == self.progress.step:
            self.events.notice(f"The run has used up its {ending}. To go on: microtfm resume {self.run.path} "
                               f"--train.{ending} and a larger number.")

    def run_all(self, stopping: Stopping) -> Result:
        """Train until something ends it: steps, minutes, patience, or a signal."""
        self.batches = self.material.order(self.settings, self.progress.epoch, self.progress.index)
        self.metrics = Metrics(self.run.metrics)
        self._open()
        try:
            reason = self._loop(stopping)
            self.save()
            self._draw()
        except Stopped:                  # before the first update was done: the state on the disk is the last one
            self.progress.step, reason = self.saved[0], "stopped"
        finally:
            self.metrics.close()
            self.events.closing()
        return Result(self.run.path, self.progress.step, self.progress.best, reason, stopping.received, self._seconds())

    def _loop(self, stopping: Stopping) -> str:
        settings, now = self.settings.train, self.progress
        self.model.train()
        stopping.patient = stopping.received is not None
        while True:
            if stopping.received is not None:
                return "stopped"
            ending = self._ending()
            due = now.step > 0 and (now.step % settings.validate_every == 0 or ending is not None)
            if due and now.validated < now.step and not self._validate(stopping):
                return "stopped"
            if ending is not None or (settings.patience and now.waited >= settings.patience):
                return ending or "patience"
            if now.step % settings.save_every == 0:
                self.save()
            began = time.monotonic()
            norm = self._update()
            stopping.patient = True
            self.busy += time.monotonic() - began
            if now.step == 1:
                self.events.first_step(time.monotonic() - began)
            if now.step % settings.log_every == 0:
                self._log(norm)

    def _ending(self) -> str | None:
        """Why the run is over, if it is. Room is left for the last validation."""
        settings = self.settings.train
        if settings.last_step is not None and self.progress.step >= settings.last_step:
            return "steps"
        if settings.minutes is not None and self._seconds() + 1.1 * self.slowest >= 60 * settings.minutes:
            return "minutes"
        return None

    def _update(self) -> float:
        """One step of the optimiser over `accumulate` batches. Returns the gradient's norm."""
        settings, now = self.settings.train, self.progress
        batches = list(self._portion(settings.accumulate))
        total = sum(batch.tokens for batch in batches)
        lr = rate(settings.schedule, now.step + 1, settings.lr, settings.warmup, self.settings.model.d_model,
                  settings.last_step, settings.cooldown)
        randomness = engine.random.get_state()
        try:
            loss_sum, length = self.learner(batches, lr, total)
        except MemoryError:
            raise UserError(self._too_large(batches)) from None
        norm = length / total
        if not (math.isfinite(loss_sum) and math.isfinite(norm)):
            where = breakdown.place(self.learner, batches, randomness)
            raise UserError(self._diverged(loss_sum / total, norm, lr, where))
        now.step += 1
        now.loss_sum += loss_sum
        now.loss_tokens += total
        self.tokens += total + sum(batch.source_tokens for batch in batches)
        self.lr = lr
        return norm

    def _portion(self, count: int) -> Iterator[Batch]:
        for _ in range(count):
            self.progress.epoch, self.progress.index, batch = next(self.batches)
            yield batch

    def _diverged(self, loss: float, norm: float, lr: float, where: str) -> str:
        step = self.progress.step + 1
        return (f"Training broke down at step {step}: loss {loss:.4g}, gradient norm {norm:.4g}, learning rate "
                f"{lr:.3g}. {where} {self._last_good()} {self._calmer()}")

    def _too_large(self, batches: list[Batch]) -> str:
        largest = max(batches, key=lambda batch: batch.source.size + batch.target_out.size)
        (rows, source), target = largest.source.shape, largest.target_out.shape[1]
        now = self.settings.train
        return (f"There was not enough memory for step {self.progress.step + 1}: a batch of {rows:,} sentences of "
                f"{source:,} and {target:,} tokens. {self._last_good()} Go on with smaller batches, several of them an "
                f"update: microtfm resume {self.run.path} --train.batch-tokens {max(now.batch_tokens // 2, 1)} "
                f"--train.accumulate {2 * now.accumulate}. A new run may also have shorter sentences, "
                f"--tokens.max-length, a smaller --tokens.size, or a smaller model.")

    def _last_good(self) -> str:
        return f"The checkpoint of step {self.saved[0]} in {self.run.path} is good."

    def _calmer(self) -> str:
        return (f"Try a smaller rate, --train.lr {self.settings.train.lr / 3:.2g}, a longer --train.warmup, or "
                f"--train.clip-norm 0.5.")

    def _log(self, norm: float) -> None:
        now = self.progress
        line = self.metrics.write(
            step=now.step, epoch=now.epoch, loss=now.loss_sum / now.loss_tokens, lr=self.lr, grad_norm=norm,
            tokens_per_s=round(self.tokens / max(self.busy, 1e-9), 1), seconds=round(self._seconds(), 2))
        self.events.stepped(line)
        now.loss_sum, now.loss_tokens = 0.0, 0
        self.busy, self.tokens = 0.0, 0
        if self.reference is not None and self.reference.is_last_chance(self.settings.train, now.step):
            early = self.reference.early(self.settings, metrics.read(self.run.metrics))
            if early is not None:
                self.events.judged(*early)

    def _validate(self, stopping: Stopping) -> bool:
        """Score the model; keep it if it is the best. False: a signal came in between, and nothing was changed."""
        began, now = time.monotonic(), self.progress
        self._check_finite()
        with self.optimiser.averaged():
            found = validate(self.model, self.material, self.settings, lambda: stopping.received is not None)
            weights = self.model.state_dict()
        self.model.train()
        if found is None:
            return False
        if not math.isfinite(found.metrics["valid_loss"]):
            raise UserError(self._broken(f"the loss on the validation text is {found.metrics['valid_loss']}"))
        self.slowest = max(self.slowest, time.monotonic() - began)
        line = self.metrics.write(step=now.step, **found.metrics, seconds=round(self._seconds(), 2))
        best = self._judge(found)
        now.validated = now.step
        kept.keep(self.run.path, now.step, self.model.state_dict(), self.identity, self.settings.train.keep)
        if best:                         # the state first: from it, the model can be written again
            now.best = {"step": now.step, **found.metrics}
            self.save()
            self._write_model(weights)
        self.events.validated(line, found.samples, best)
        self._comment(found)
        self._draw(seldom=True)
        return True

    def _comment(self, found: Validation) -> None:
        """Say what stands out in the translations, and again if it lasts, and where the run lies among earlier ones."""
        lines = metrics.read(self.run.metrics)
        risen = diverged(lines)          # then all that stands out in the translations comes from it
        findings = found.findings if risen is None else [Finding("diverged", (
            f"{risen}: the run has diverged, usually because the learning rate is too high, and must begin anew. "
            f"{self._calmer()}"))]
        for finding in findings:
            if self.told.get(finding.kind, 0) % REMIND == 0:
                self.events.notice(finding.text)
        self.told = {finding.kind: self.told.get(finding.kind, 0) + 1 for finding in findings}
        if self.reference is not None:
            verdict = self.reference.verdict(self.settings, lines, "copied" in self.told)
            if verdict is not None:
                self.events.judged(*verdict)
            elif self.progress.step > self.reference.reach:
                self.events.notice(f"The reference of the recipe {self.reference.recipe} ends at step "
                                   f"{self.reference.reach:,}: from here on this run is compared with nothing.")
                self.reference = None

    def _judge(self, found: Validation) -> bool:
        """Whether this is the best so far: by BLEU, then loss. Patience counts validations where neither improves."""
        now, loss = self.progress, found.metrics["valid_loss"]
        best = not now.best or (found.metrics["bleu"], -loss) > (now.best["bleu"], -now.best["valid_loss"])
        now.waited = 0 if best or loss < now.lowest else now.waited + 1
        now.lowest = min(now.lowest, loss)
        return best

    def _model_step(self) -> int | None:
        return checkpoint.load(self.run.model).facts.get("step") if self.run.model.exists() else None

    def _write_model(self, weights: dict[str, np.ndarray]) -> None:
        checkpoint.save(self.run.model, weights, {**self.identity, "kind": "model", **self.progress.best})

    def save(self) -> None:
        """Put the state on the disk, if it is not there."""
        if self.saved != (self.progress.step, self.progress.validated):
            self._check_finite()
            try:
                self.save_to(self.run.state)
            except UserError as error:
                raise UserError(f"{error} Then go on with: microtfm resume {self.run.path}") from None

    def _check_finite(self) -> None:
        """No weights and no state with numbers that are not finite are ever kept."""
        name = state.not_finite(self.model, self.optimiser)
        if name is not None:
            raise UserError(self._broken(f"{name} has numbers that are not finite"))

    def _broken(self, what: str) -> str:
        return f"Training broke down at step {self.progress.step}: {what}. {self._last_good()} {self._calmer()}"

    def save_to(self, path: Path) -> None:
        """Write the state."""
        state.save(path, self.model, self.optimiser, self.progress, self.identity)
        self.saved = (self.progress.step, self.progress.validated)

    def _draw(self, seldom: bool = False) -> None:
        if seldom and time.monotonic() - self.drawn < DRAW_EVERY:
            return
        try:
            curves.draw(self.run.metrics, self.run.curves)
        except (UserError, OSError) as error:             # a picture is not worth a run
            self.events.notice(f"The curves could not be drawn: {error}")
        self.drawn = time.monotonic()

    def _open(self) -> None:
        train = self.settings.train
        self.events.opening(Opening(
            folder=self.run.path, device=self.place, threads=default_threads(),
            pairs=len(self.material.train), valid=len(self.material.valid),
            vocabulary=(len(self.material.source), len(self.material.target)), parameters=self.model.count(),
            model=describe(self.settings.model), last_step=train.last_step, minutes=train.minutes,
            step=self.progress.step, seconds=self._seconds()))

    def _seconds(self) -> float:
        return self.spent + time.monotonic() - self.started
