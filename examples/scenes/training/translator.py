"""A small Chinese to English translator for the captions: a MarianMTModel trained from scratch.

The same class and files as the published ``opus-mt-zh-en``, so that what runs the one runs the
other; only its vocabulary and size are those of the scenes. ``python -m scenes.training.translator
--pairs pairs.jsonl --out DIR``. Needs torch, transformers and sentencepiece.
"""

# pyright: reportPrivateImportUsage=false, reportMissingImports=false

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

SEED: Final = 20_261_123
LIMIT: Final = 64
"""Tokens of a caption in either language, the closing mark included."""
_MARKS: Final = ("</s>", "<unk>")
_PAD: Final = "<pad>"
_CARD: Final = """---
license: apache-2.0
language: [zh, en]
pipeline_tag: translation
library_name: transformers
---

# Scenes, Chinese to English

A MarianMTModel of {parameters:,} parameters, trained from scratch on {pairs:,} pairs of captions of
drawn scenes (shapes, colours, places, sizes, counts). It translates those and nothing else: it is
here so that the way of a prompt through a translator can be shown and measured offline.

Made by `python -m scenes.training.translator`, seed {seed}, {steps:,} steps. Of {checked} captions
of scenes that no training pair shows, {exact:.1%} came out word for word as their English
counterpart.
"""


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Returns Chinese and English of each line of a parallel caption file."""
    with path.open(encoding="utf-8") as lines:
        return [(pair["zh"], pair["en"]) for pair in map(json.loads, lines)]


def pieces(texts: Sequence[str], target: Path, size: int) -> None:
    """Learns a sentencepiece model from ``texts`` and writes it to ``target``."""
    import sentencepiece

    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_prefix=f"{folder}/pieces",
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            model_type="unigram",
            minloglevel=2,
            num_threads=1,
        )
        shutil.copyfile(f"{folder}/pieces.model", target)


def write_tokenizer(pairs: Sequence[tuple[str, str]], folder: Path) -> Any:
    """Writes a Marian tokenizer's files and returns the tokenizer."""
    import sentencepiece
    from transformers import MarianTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    named: dict[str, int] = {mark: number for number, mark in enumerate(_MARKS)}
    for column, (name, size) in enumerate((("source.spm", 400), ("target.spm", 300))):
        pieces([pair[column] for pair in pairs[:20_000]], folder / name, size)
        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / name))
        for number in range(model.get_piece_size()):
            piece = model.id_to_piece(number)
            if not model.is_control(number) and not model.is_unknown(number):
                named.setdefault(piece, len(named))
    named[_PAD] = len(named)
    (folder / "vocab.json").write_text(json.dumps(named, ensure_ascii=False), encoding="utf-8")
    tokenizer = MarianTokenizer(
        source_spm=str(folder / "source.spm"),
        target_spm=str(folder / "target.spm"),
        vocab=str(folder / "vocab.json"),
        source_lang="zh",
        target_lang="en",
        model_max_length=LIMIT,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def build(tokenizer: Any, width: int, layers: int) -> Any:
    """Returns an untrained model for the tokenizer."""
    from transformers import MarianConfig, MarianMTModel

    pad = tokenizer.pad_token_id
    return MarianMTModel(
        MarianConfig(
            vocab_size=len(tokenizer.get_vocab()),
            d_model=width,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=2 * width,
            decoder_ffn_dim=2 * width,
            max_position_embeddings=LIMIT,
            dropout=0.0,
            scale_embedding=True,
            static_position_embeddings=True,
            pad_token_id=pad,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            decoder_start_token_id=pad,
            forced_eos_token_id=None,
            activation_function="swish",
            share_encoder_decoder_embeddings=True,
        )
    )


def train(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], steps: int) -> None:
    """Teaches ``model`` the pairs: cross entropy, AdamW, warm-up and cosine."""
    import torch

    generator = random.Random(SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    model.train()
    for step in range(steps):
        batch = generator.choices(pairs, k=128)
        told = tokenizer(
            [zh for zh, _ in batch],
            text_target=[en for _, en in batch],
            padding=True,
            truncation=True,
            max_length=LIMIT,
            return_tensors="pt",
        )
        told["labels"][told["labels"] == tokenizer.pad_token_id] = -100
        loss = model(**told).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step:>5}/{steps}  loss {loss.item():.4f}", file=sys.stderr, flush=True)
    model.eval()


def exact(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> float:
    """Returns the share of pairs whose translation is the English counterpart, word for word."""
    import torch

    right = 0
    for start in range(0, len(pairs), 64):
        batch = pairs[start : start + 64]
        told = tokenizer([zh for zh, _ in batch], padding=True, return_tensors="pt")
        with torch.no_grad():
            made = model.generate(**told, num_beams=1, do_sample=False, max_new_tokens=LIMIT)
        texts = tokenizer.batch_decode(made, skip_special_tokens=True)
        right += sum(text == en for text, (_, en) in zip(texts, batch, strict=True))
    return right / len(pairs)


def main() -> None:
    """Trains, checks and writes a translator."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, help="pairs to check with")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    pairs = read_pairs(options.pairs)
    options.out.mkdir(parents=True)
    tokenizer = write_tokenizer(pairs, options.out)
    model = build(tokenizer, options.width, options.layers)
    train(model, tokenizer, pairs, options.steps)
    model.half().save_pretrained(options.out)
    held_out = read_pairs(options.held_out) if options.held_out else pairs[-300:]
    share = exact(model.float(), tokenizer, held_out)
    print(f"word for word: {share:.3f} of {len(held_out)}", file=sys.stderr)
    card = _CARD.format(
        parameters=model.num_parameters(),
        pairs=len(pairs),
        seed=SEED,
        steps=options.steps,
        checked=len(held_out),
        exact=share,
    )
    (options.out / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
