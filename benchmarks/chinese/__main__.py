"""How much of a Chinese prompt reaches the picture, on the scenes model that comes with zhcache.

``python -m benchmarks.chinese``: prompts of scenes that no training picture or pair shows, four
seeds each. The pictures of every way have the same seeds and settings; an attribute reader tells
from the pixels which of the six attributes are there. Beside the ways of zhcache: the English
reference (the ceiling), what a user has without zhcache, the article's way, and floors.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import scenes
from benchmarks import machine, report
from benchmarks.chinese import bert, pictures
from harness.daemon import Daemon
from scenes import captions
from scenes.world import ATTRIBUTES
from zhcache.evaluate import bootstrap

HERE = Path(scenes.__file__).parent
REPO, ADAPTER, TRANSLATOR = "zhcache/scenes", "adapters/scenes-zh", "zhcache/scenes-zh-en"
GOAL = 0.95
RESAMPLES = 2000
VARIANTS = ("fp16", "bf16", "fp8", "int8", "int4")
CALL: dict[str, Any] = {"num_inference_steps": 12, "guidance_scale": 4.0}
CONFIG = f'[store]\nmin_free = "0"\n[chinese]\ntranslator = "{TRANSLATOR}"\n'


def main() -> None:
    """Measures and reports."""
    parser = report.options(__doc__ or "")
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--only", choices=("ways", "variants"), help="one of the two parts")
    options = parser.parse_args()
    report.title("Chinese prompts")
    about = machine.describe(["torch", "diffusers", "transformers"])
    report.facts(
        about
        | {"prompts": options.prompts, "seeds": options.seeds, "load before": machine.load()}
        | CALL
    )
    with tempfile.TemporaryDirectory(prefix="zhcache-chinese-", dir=options.folder) as temporary:
        raw = _measured(Path(temporary), options)
    print(f"Load after: {machine.load()}.")
    report.write_json(options.json, {"machine": about, "found": raw})


def _measured(folder: Path, options: Any) -> dict[str, Any]:
    daemon = Daemon(folder, CONFIG)
    daemon.start()
    os.environ.update({k: v for k, v in daemon.environ.items() if k.startswith("ZHCACHE_")})
    try:
        for name, repo in (("model", REPO), ("adapter", ADAPTER), ("translator", TRANSLATOR)):
            daemon.cli("import", str(HERE / name), "--repo", repo, timeout=120)
        raw: dict[str, Any] = {}
        if options.only != "variants":
            raw["ways"] = _ways(folder, options)
        if options.only != "ways":
            raw["variants"] = _variants(options)
        return raw
    finally:
        daemon.stop()


def _ways(folder: Path, options: Any) -> dict[str, Any]:
    asked = captions.evaluation()[: options.prompts]
    meant = [one.scene for one in asked]
    english, chinese = [one.en for one in asked], [one.zh for one in asked]
    shuffled = [_shuffled(text, number) for number, text in enumerate(chinese)]
    article = _article(folder, chinese)
    ways: dict[str, tuple[Sequence[str], pictures.Draw]] = {
        "English reference": (english, _loaded(None)),
        "Chinese, adapter": (chinese, _loaded("adapter:scenes-zh")),
        "Chinese, translate": (chinese, _loaded("translate")),
        "Chinese, untouched pipeline": (chinese, _loaded(None)),
        "Chinese, the article's raw BERT states": (chinese, article),
        "shuffled characters, adapter": (shuffled, _loaded("adapter:scenes-zh")),
        "empty prompt": ([""] * len(asked), _loaded(None)),
    }
    found = {}
    for name, (prompts, draw) in ways.items():
        report.say(name)
        began = time.monotonic()
        found[name] = pictures.found(prompts, meant, options.seeds, draw, report.say)
        report.say(f"{name}: {_mean(found[name]):.3f} in {time.monotonic() - began:.0f} s")
    _tell_ways(found)
    return {name: one.right for name, one in found.items()}


def _loaded(chinese: str | None, variant: str | None = None) -> pictures.Draw:
    """Returns the pipeline as a user loads it, called with a list of prompts."""
    import zhcache

    pipe: Any = zhcache.load_pipeline(REPO, variant=variant, device="cpu", chinese=chinese)
    pipe.set_progress_bar_config(disable=True)

    def draw(prompts: Sequence[str], generators: list[Any]) -> Sequence[Any]:
        return pipe(list(prompts), generator=generators, **CALL).images

    return draw


def _article(folder: Path, held_out: Sequence[str]) -> pictures.Draw:
    import zhcache

    pipe: Any = zhcache.load_pipeline(REPO, device="cpu", chinese=None)
    pipe.set_progress_bar_config(disable=True)
    known = [pair.zh for pair in captions.pairs(20_000, seed=0)]
    assert not set(known) & set(held_out)
    report.say("the article's BERT learns the captions")
    raw = bert.learned(
        known,
        folder / "bert",
        width=pipe.unet.config.cross_attention_dim,
        length=pipe.tokenizer.model_max_length,
        steps=800,
        say=report.say,
    )
    empty = raw.states([""]).to(pipe.unet.dtype)

    def draw(prompts: Sequence[str], generators: list[Any]) -> Sequence[Any]:
        states = raw.states(prompts).to(pipe.unet.dtype)
        negative = empty.expand(len(prompts), -1, -1)
        return pipe(
            prompt_embeds=states, negative_prompt_embeds=negative, generator=generators, **CALL
        ).images

    return draw


def _shuffled(text: str, seed: int) -> str:
    characters = list(text)
    random.Random(seed).shuffle(characters)
    return "".join(characters)


def _mean(found: pictures.Found) -> float:
    shares = found.shares()
    return sum(shares) / len(shares)


def _tell_ways(found: dict[str, pictures.Found]) -> None:
    ceiling = found["English reference"].shares()
    rows = []
    for name, one in found.items():
        shares = one.shares()
        rows.append(
            (
                name,
                _mean_of(shares),
                _shown(*_ratio(shares, ceiling)),
                *(f"{sum(one.right[a]) / len(shares):.2f}" for a in ATTRIBUTES),
                f"{one.unread / one.pictures:.2f}",
            )
        )
    print("## What the pictures show\n")
    head = ("way", "attributes that are there", "of the ceiling", *ATTRIBUTES, "nothing to read")
    report.table(head, rows)
    reached = _ratio(found["Chinese, adapter"].shares(), ceiling)
    report.table(
        ("goal", "at least", "measured", ""),
        [
            (
                "adapter, of the English reference",
                GOAL,
                _shown(*reached),
                "met" if reached[0] >= GOAL else "**missed**",
            )
        ],
    )


def _mean_of(shares: Sequence[float]) -> str:
    found = bootstrap.interval(shares)
    assert found is not None
    return _shown(statistics.mean(shares), found.low, found.high)


def _ratio(shares: Sequence[float], base: Sequence[float]) -> tuple[float, float, float]:
    """Returns the ratio of two means over the same prompts, and its interval of 95 %.

    Both are drawn together, prompt by prompt: what makes a prompt hard is in both.
    """
    choice, ratios = random.Random(0), []
    for _ in range(RESAMPLES):
        drawn = choice.choices(range(len(base)), k=len(base))
        ratios.append(sum(shares[n] for n in drawn) / sum(base[n] for n in drawn))
    ratios.sort()
    low, high = (ratios[round(at * (RESAMPLES - 1))] for at in (0.025, 0.975))
    return statistics.mean(shares) / statistics.mean(base), low, high


def _shown(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}..{high:.3f}]"


def _variants(options: Any) -> dict[str, Any]:
    asked = captions.evaluation()[: max(options.prompts // 3, 1)]
    meant, english = [one.scene for one in asked], [one.en for one in asked]
    found = {}
    for variant in (None, *VARIANTS):
        name = variant or "as published"
        report.say(f"variant {name}")
        draw = _loaded(None, variant)
        found[name] = pictures.found(english, meant, options.seeds, draw, report.say)
    base = found["as published"].shares()
    print("## Variants, English prompts\n")
    report.table(
        ("variant", "attributes that are there", "of the published", *ATTRIBUTES),
        [
            (
                name,
                _mean_of(one.shares()),
                _shown(*_ratio(one.shares(), base)),
                *(f"{sum(one.right[a]) / len(base):.2f}" for a in ATTRIBUTES),
            )
            for name, one in found.items()
        ],
    )
    return {name: one.right for name, one in found.items()}


if __name__ == "__main__":
    main()
