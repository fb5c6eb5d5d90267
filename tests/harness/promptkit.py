"""Small prompt models as published ones lie on the disk: a translator that was taught to translate
a few words, a pipeline with a Chinese encoder, an adapter. Built once for each machine and user.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

RECIPE = 2
SEED = 20_261_123

COLOURS = {"红色的": "red", "蓝色的": "blue", "白色的": "white"}
THINGS = {"灯笼": "lantern", "猫": "cat", "房子": "house", "桥": "bridge"}
PLACES = {"在雪里": "in the snow", "在河边": "by the river"}
NAMES = ("ZXA", "ZXB", "myGirl")
STEPS = 400


def translator() -> Path:
    """Returns a Marian model that knows the words above, as ``a red cat by the river``."""
    return _built("translator", _translator)


def encoder() -> Path:
    """Returns what a pipeline with a Chinese text encoder has of it: encoder and tokenizer."""
    return _built("encoder", _encoder)


def pickled(folder: Path, target: Path, part: str = "") -> Path:
    """Copies ``folder`` with the weights of its ``part`` as pickle, as they are published."""
    import torch
    from safetensors.torch import load_file

    shutil.copytree(folder, target)
    safe = target / part / "model.safetensors"
    torch.save(load_file(safe), safe.with_name("pytorch_model.bin"))
    safe.unlink()
    return target


def _built(name: str, build: Callable[[Path], None]) -> Path:
    target = Path(tempfile.gettempdir()) / f"demohub-{os.getuid()}" / f"prompts-{RECIPE}-{name}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        build(scratch / "made")
        # Another process may have been faster; its bytes are as good.
        with suppress(OSError):
            (scratch / "made").rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


# --- the translator -----------------------------------------------------------------------------


def _pair(draw: random.Random) -> tuple[str, str]:
    (colour, colour_en), (thing, thing_en) = (draw.choice([*t.items()]) for t in (COLOURS, THINGS))
    chinese, english = f"一只{colour}{thing}", f"a {colour_en} {thing_en}"
    kind, name = draw.random(), draw.choice(NAMES)
    if kind < 0.3:
        chinese, english = f'{chinese}写着 "{name}"', f'{english} that says "{name}"'
    elif kind < 0.5:
        chinese, english = f"{chinese}和 {name}", f"{english} and {name}"
    if draw.random() < 0.4:
        place, place_en = draw.choice([*PLACES.items()])
        chinese, english = f"{chinese}{draw.choice(['', ' '])}{place}", f"{english} {place_en}"
    return chinese, english


def _pairs(count: int) -> list[tuple[str, str]]:
    draw = random.Random(SEED)
    pairs = [_pair(draw) for _ in range(count)]
    return [
        (f"{one[0]}, {two[0]}", f"{one[1]}, {two[1]}") if draw.random() < 0.25 else one
        for one, two in itertools.pairwise(pairs)
    ]


def _translator(target: Path) -> None:
    import sentencepiece

    pairs = _pairs(4000)
    target.mkdir()
    vocabulary = {"</s>": 0, "<unk>": 1}
    for name, side in (("source", 0), ("target", 1)):
        with (target / f"{name}.spm").open("wb") as file:
            sentencepiece.SentencePieceTrainer.Train(
                sentence_iterator=iter([pair[side] for pair in pairs]),
                model_writer=file,
                vocab_size=90,
                hard_vocab_limit=False,
                num_threads=1,
                minloglevel=2,
            )
        model = sentencepiece.SentencePieceProcessor(str(target / f"{name}.spm"))
        for piece in map(model.IdToPiece, range(3, model.GetPieceSize())):
            vocabulary.setdefault(piece, len(vocabulary))
    vocabulary["<pad>"] = len(vocabulary)
    (target / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    _teach(target, pairs, len(vocabulary))


def _teach(target: Path, pairs: list[tuple[str, str]], words: int) -> None:
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    paths = [str(target / name) for name in ("source.spm", "target.spm", "vocab.json")]
    tokenizer = MarianTokenizer(*paths, source_lang="zho", target_lang="eng")
    pad = words - 1
    config = MarianConfig(
        vocab_size=words, d_model=64, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128,
        decoder_ffn_dim=128, max_position_embeddings=64, pad_token_id=pad, eos_token_id=0,
        decoder_start_token_id=pad, forced_eos_token_id=0, scale_embedding=True,
        share_encoder_decoder_embeddings=True, activation_function="swish", dropout=0.0,
    )  # fmt: skip
    draw = random.Random(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model: Any = MarianMTModel(config)
        optimizer = torch.optim.AdamW(model.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
        for _ in range(STEPS):
            asked, known = zip(*draw.sample(pairs, 32), strict=True)
            batch = tokenizer([*asked], text_target=[*known], return_tensors="pt", padding=True)
            batch["labels"][batch["labels"] == pad] = -100
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval().save_pretrained(target)
    tokenizer.save_pretrained(target)


# --- the encoder --------------------------------------------------------------------------------


def _encoder(target: Path) -> None:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    target.mkdir()
    letters = sorted(
        set("".join([*COLOURS, *THINGS, *PLACES, "一只，。, abcdefghijklmnopqrstuvwxyz"]))
    )
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *filter(str.strip, letters)]
    (target / "vocab.txt").write_text("\n".join(words) + "\n")
    # As published ones: nothing says how long a text may be.
    tokenizer: Any = BertTokenizer(str(target / "vocab.txt"))
    tokenizer.save_pretrained(target / "tokenizer")
    (target / "vocab.txt").rename(target / "tokenizer" / "vocab.txt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        config = BertConfig(
            vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=64, max_position_embeddings=512,
        )  # fmt: skip
        BertModel(config).save_pretrained(target / "text_encoder")
