"""What is asked of a training, and what it tells. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from zhcache.chinese.adapter.format import Base, Described
from zhcache.errors import UsageError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_LEAST_STEPS, _EPOCHS = 2000, 10


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One training.

    Attributes:
        repo: The base model, in the store.
        revision: Its branch, tag or commit.
        pairs: File of parallel captions.
        name: Of the adapter.
        encoder: A folder or a model in the store whose BertModel it starts from; None: a new one.
        is_frozen: The encoder stays as it is.
        steps: In all; or
        epochs: how often all pairs are seen.
        batch: Pairs a step.
        rate: The highest learning rate.
        precision: One of ``PRECISIONS``.
        device: ``auto``, or torch's name of one.
        held_out: How many pairs are held out, or a file of them.
        seed: Of all that is drawn.
        width: Channels of the resampler and of a new encoder; a multiple of 32.
        layers: Of both.
        simplified: Texts are brought to simplified characters and half-width punctuation.
        description: What the pairs are, in a line.
        checkpoint_s: Seconds between two checkpoints.
        work: Folder for the unfinished training; nobody else's.
        is_fresh: True: an unfinished one is thrown away. False: there has to be one.
        command: For the card.
    """

    repo: str
    pairs: Path
    name: str
    work: Path
    revision: str | None = None
    encoder: str | None = None
    is_frozen: bool = False
    steps: int | None = None
    epochs: int | None = None
    batch: int = 64
    rate: float = 1e-3
    precision: str = "auto"
    device: str = "auto"
    held_out: int | Path = 256
    seed: int = 0
    width: int = 256
    layers: int = 3
    simplified: bool = True
    description: str = ""
    checkpoint_s: float = 60.0
    is_fresh: bool | None = None
    command: str = ""

    def check(self) -> None:
        """Checks what needs no file.

        Raises:
            UsageError: Something cannot be meant.
        """
        counts = [n for n in (self.steps, self.epochs, self.batch, self.layers) if n is not None]
        held = self.held_out if isinstance(self.held_out, int) else 2
        wrong = {
            "name": (self.name, _NAME.fullmatch(self.name), "NAME or OWNER/NAME"),
            "steps, epochs, batch, layers": (counts, min(counts) > 0, "numbers from 1 on"),
            "lr": (self.rate, 0 < self.rate < 1, "a number between 0 and 1"),
            "width": (self.width, self.width > 0 and self.width % 32 == 0, "a multiple of 32"),
            "held-out": (self.held_out, held > 1, "a file, or a number from 2 on"),
            "precision": (self.precision, self.precision in PRECISIONS, " | ".join(PRECISIONS)),
        }
        for name, (value, is_right, allowed) in wrong.items():
            if not is_right:
                raise UsageError(
                    "{name}={value} cannot be meant",
                    hint="it takes {allowed}",
                    name=name,
                    value=value,
                    allowed=allowed,
                )
        if self.steps is not None and self.epochs is not None:
            raise UsageError("--steps and --epochs exclude each other", hint="leave one out")
        if self.is_frozen and self.encoder is None:
            raise UsageError(
                "--freeze-encoder is for an encoder that was trained before",
                hint="name it by --encoder",
            )

    def steps_for(self, pairs: int) -> int:
        """Returns how many steps there are with so many pairs."""
        if self.steps is not None:
            return self.steps
        by_epochs = -(-pairs * (self.epochs or _EPOCHS) // self.batch)
        return by_epochs if self.epochs is not None else max(by_epochs, _LEAST_STEPS)

    def recipe(self, sha256: str, held_sha256: str | None, base: Base) -> dict[str, Any]:
        """Returns what has to be the same for an unfinished training to go on."""
        return {
            "pairs": sha256,
            "base": base.commit,
            "text encoders": base.text_encoders,
            "held-out": held_sha256 or self.held_out,
            "encoder": self.encoder,
            "freeze-encoder": self.is_frozen,
            "steps": self.steps,
            "epochs": self.epochs,
            "batch": self.batch,
            "lr": self.rate,
            "precision": self.precision,
            "seed": self.seed,
            "width": self.width,
            "layers": self.layers,
            "simplified": self.simplified,
        }


Stage = Literal["pairs", "teacher", "measuring", "resumed", "training", "done"]


@dataclass(frozen=True, kw_only=True)
class Told:
    """How a training goes.

    Attributes:
        stage: What it does.
        step: How many steps were made.
        steps: Of how many.
        loss: Mean distance from the teacher since it was told last.
        heldout_error: As measured last, as is
        retrieval: the share of held-out pairs whose own text was the nearest.
        pairs_per_s: How fast it is.
        left_s: Seconds it will take yet.
        lines: How many lines of the pairs were read.
        bad: How many of them are no pairs.
        named: The numbers of the first of these.
    """

    stage: Stage
    step: int = 0
    steps: int = 0
    loss: float | None = None
    heldout_error: float | None = None
    retrieval: float | None = None
    pairs_per_s: float | None = None
    left_s: float | None = None
    lines: int = 0
    bad: int = 0
    named: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What came of it: the adapter's folder, inside the plan's work folder."""

    folder: Path
    about: Described
    steps: int
