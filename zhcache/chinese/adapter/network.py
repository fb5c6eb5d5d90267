"""The student: a Chinese BERT, and a resampler that makes a base encoder's states of its states.

The resampler has one learned query for each position of each argument that it gives. They look at
the Chinese states (cross-attention) and at one another (word order differs, and what stands at one
position decides where the next word stands). What comes out is in units of the teacher's own
spread: ``state = mean + spread * output``, both kept for each position and channel, so a position
that never varies (a start token) is exact from the first step on.

The one module of ``zhcache.chinese.adapter`` that a worker needs; imports torch and transformers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from zhcache.chinese.adapter import format as described
from zhcache.chinese.adapter.pieces import cut_into
from zhcache.errors import IntegrityError

_HEADER_BYTES = 16 * 1024 * 1024
_BATCH = 32

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)
"""What reading spoilt models raises."""


class Resampler(nn.Module):
    """From states of a Chinese text to those of a base model's text encoders.

    Args:
        arguments: What is given, by argument.
        network: Sizes.
        states_dim: Channels of the Chinese states.
    """

    def __init__(
        self,
        arguments: Mapping[str, described.Argument],
        network: described.Network,
        states_dim: int,
    ) -> None:
        super().__init__()
        self._arguments = dict(arguments)
        width = network.width
        positions = sum(argument.length for argument in arguments.values())
        self.reading = nn.Sequential(nn.Linear(states_dim, width), nn.LayerNorm(width))
        self.queries = nn.Parameter(torch.randn(positions, width) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width,
                network.heads,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(network.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, argument.dim) for name, argument in arguments.items()}
        )
        for head in self.heads.values():
            # It starts as the teacher's mean.
            nn.init.zeros_(head.weight)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(head.bias)  # pyright: ignore[reportArgumentType]
        for name, argument in arguments.items():
            shape = (argument.length, argument.dim)
            self.register_buffer(f"{name}_mean", torch.zeros(shape))
            self.register_buffer(f"{name}_spread", torch.ones(shape))

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns for each argument ``(batch, length, dim)`` in units of the teacher's spread.

        Args:
            states: ``(batch, tokens, states_dim)``.
            mask: ``(batch, tokens)``: 1 where there is a token.
        """
        memory = self.reading(states)
        # A whole batch's queries in memory, since attention writes into no expanded view.
        found = self.queries.expand(len(states), -1, -1)
        for layer in self.layers:
            found = layer(found, memory, memory_key_padding_mask=mask == 0)
        found = self.norm(found)
        lengths = [argument.length for argument in self._arguments.values()]
        parts = zip(self._arguments, found.split(lengths, dim=1), strict=True)
        return {name: self.heads[name](part) for name, part in parts}

    def measure(self, name: str, mean: torch.Tensor, spread: torch.Tensor) -> None:
        """Takes an argument's mean and spread over the teacher's states, each (length, dim)."""
        self.get_buffer(f"{name}_mean").copy_(mean)
        self.get_buffer(f"{name}_spread").copy_(spread)

    def spread(self, name: str) -> torch.Tensor:
        """Returns the teacher's standard deviation of an argument, (length, dim) float32."""
        return self.get_buffer(f"{name}_spread")

    def normalised(self, name: str, states: torch.Tensor) -> torch.Tensor:
        """Returns the teacher's states in units of their spread; 0 where they never vary."""
        spread = self.spread(name)
        distance = states - self.get_buffer(f"{name}_mean")
        return torch.where(spread > 0, distance / spread.clamp_min(1e-12), 0.0)

    def states(self, name: str, output: torch.Tensor) -> torch.Tensor:
        """Returns ``output`` of ``forward`` as states in the base encoder's space, float32."""
        return self.get_buffer(f"{name}_mean") + self.spread(name) * output.float()


class Student(nn.Module):
    """An encoder with its resampler: from token ids to normalised states."""

    def __init__(self, encoder: nn.Module, resampler: Resampler) -> None:
        super().__init__()
        self.encoder = encoder
        self.resampler = resampler

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns what ``Resampler.forward`` makes of ``ids`` and ``mask``, (batch, tokens)."""
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.resampler(states, mask)


class Adapter:
    """An adapter ready to be asked, on the CPU unless its student was moved.

    Args:
        about: What it is.
        student: Its network; run in evaluation mode.
        tokenizer: Of the Chinese encoder.
    """

    def __init__(self, about: described.Described, student: Student, tokenizer: Any) -> None:
        self.about = about
        self.student = student
        self._tokenizer = tokenizer

    def encode(
        self, texts: Sequence[str], chunks: bool = False
    ) -> tuple[dict[str, list[torch.Tensor]], list[str]]:
        """Returns the call's arguments for ``texts``, and of each text what was not read.

        Args:
            texts: In the wording that the adapter was trained on (``Described.simplified``); empty
                ones too.
            chunks: Whether a text past the encoder's length is read in several pieces; otherwise
                only its first is.

        Returns:
            For each argument one tensor a text, float32: ``(pieces, length, dim)`` for states,
            ``(dim,)`` for a pooled vector (of the first piece), ``(pieces, length)`` int64 for a
            mask. And the rest of each text that was left out, "" mostly.
        """
        pieces = [self.pieces(text) for text in texts]
        kept = [parts if chunks else parts[:1] for parts in pieces]
        cut = ["".join(parts[len(those) :]) for parts, those in zip(pieces, kept, strict=True)]
        outputs = self._run([piece for parts in kept for piece in parts])
        counts = [len(parts) for parts in kept]
        return {
            name: [
                part[0] if self.about.arguments[name].kind == "pooled" else part
                for part in states.split(counts)
            ]
            for name, states in outputs.items()
        }, cut

    def pieces(self, text: str) -> list[str]:
        """Returns ``text`` in pieces that the encoder takes whole."""
        limit = self.about.encoder.max_length - 2
        found = self._tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return cut_into(text, [end for _, end in found["offset_mapping"]], limit)

    @torch.inference_mode()
    def _run(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        self.student.eval()
        resampler = self.student.resampler
        device = resampler.queries.device
        found: dict[str, list[torch.Tensor]] = {name: [] for name in self.about.arguments}
        for start in range(0, len(texts), _BATCH):
            ids, mask = tokens(self._tokenizer, texts[start : start + _BATCH], self.about.encoder)
            for name, output in self.student(ids.to(device), mask.to(device)).items():
                found[name].append(resampler.states(name, output).cpu())
        return {
            name: _in_form(torch.cat(states), self.about.arguments[name].kind)
            for name, states in found.items()
        }


def tokens(
    tokenizer: Any, texts: Sequence[str], encoder: described.Encoder
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids and mask of ``texts``, (batch, tokens) int64, cut at the encoder's length."""
    found = tokenizer(
        list(texts),
        padding=True,
        truncation=True,
        max_length=encoder.max_length,
        return_tensors="pt",
    )
    return found["input_ids"], found["attention_mask"]


def _in_form(states: torch.Tensor, kind: described.Kind) -> torch.Tensor:
    """Returns ``states (pieces, length, dim)`` as its argument's kind has them."""
    if kind == "states":
        return states
    if kind == "pooled":
        return states[:, 0]
    # Masks are a run of ones: their sum says how long it is.
    length = states.shape[1]
    ones = states[..., 0].clamp(0, 1).sum(dim=1).round().clamp(min=1)
    return (torch.arange(length)[None] < ones[:, None]).long()


def load(folder: Path) -> Adapter:
    """Returns the adapter in ``folder``, on the CPU in float32.

    Raises:
        NotFound: There is none.
        IntegrityError: Its files are not what its description says.
        VersionMismatch: It is of a later format.
    """
    about = described.read(folder)
    try:
        encoder = read_encoder(folder / described.ENCODER)
        tokenizer = read_tokenizer(folder / described.TOKENIZER)
    except UNREADABLE as error:
        raise _spoilt(folder, f"{type(error).__name__}: {error}") from None
    if about.encoder.max_length > encoder.config.max_position_embeddings:
        raise _spoilt(folder, "its encoder has fewer positions than it is said to have")
    # On the meta device: what a stranger's description says takes no memory before it is proven.
    with torch.device("meta"):
        resampler = Resampler(about.arguments, about.network, encoder.config.hidden_size)
    _fill(resampler, folder / described.WEIGHTS)
    return Adapter(about, Student(encoder, resampler).eval().requires_grad_(False), tokenizer)


def read_encoder(folder: Path) -> Any:
    """Returns the BertModel in ``folder`` in float32.

    Raises:
        OSError: It cannot be read.
        ValueError: Weights are missing or have another shape.
    """
    from transformers import BertModel

    read: Any = BertModel.from_pretrained
    made, found = read(
        str(folder),
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.float32,
        # Else that of its configuration, which may name code of a hub's.
        attn_implementation="sdpa",
        add_pooling_layer=False,
        output_loading_info=True,
    )
    lacking = sorted(map(str, (*found["missing_keys"], *found["mismatched_keys"])))
    if lacking:
        raise ValueError(f"the encoder lacks {', '.join(lacking[:3])}")
    return made


def read_tokenizer(folder: Path) -> Any:
    """Returns the BertTokenizer in ``folder``.

    Raises:
        OSError: It cannot be read.
    """
    from transformers import BertTokenizer

    return BertTokenizer.from_pretrained(str(folder), local_files_only=True)


def _fill(module: nn.Module, path: Path) -> None:
    """Gives ``module``, which lies on the meta device, the tensors of a file.

    Raises:
        IntegrityError: They are not those that it has.
    """
    from safetensors.torch import load_file

    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if _shapes(path) != wanted:
        raise _spoilt(path, "its tensors are not those of the network that is described")
    try:
        tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    except UNREADABLE as error:
        raise _spoilt(path, f"{type(error).__name__}: {error}") from None
    module.load_state_dict(tensors, strict=True, assign=True)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the tensors' shapes by the file's header, which is read alone."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _HEADER_BYTES:
                raise _spoilt(path, "its header is too long")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: tuple(entry["shape"]) for name, entry in header.items()}
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise _spoilt(path, f"{type(error).__name__}: {error}") from None


def _spoilt(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(
        "the adapter in {path} cannot be read: {reason}",
        hint="`zhcache verify` tells whether it is as it was; fetch or train it anew otherwise",
        path=path,
        reason=reason,
    )
