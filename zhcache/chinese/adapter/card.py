"""The card of an adapter, in English and Chinese: what it is for and how good it is. Pure."""

from __future__ import annotations

from zhcache.chinese.adapter.format import Described

_TEXT = """\
---
language: [zh, en]
tags: [zhcache, zhcache-adapter, text-to-image]
base_model: {base}
---
# {name}

Reads Chinese prompts for [{base}]({base}): a Chinese encoder and a resampler give the states that
the model's own text encoder gives for the English of a prompt. Made by `zhcache adapter train`; the
model itself is unchanged.

```python
pipe = zhcache.load_pipeline("{base}", chinese="adapter:{short}")
```

| | |
| --- | --- |
| base model | `{base}` at `{commit}`, {kind} |
| gives | {arguments} |
| network | BERT of up to {tokens} tokens; resampler of {layers} layers, width {width} |
| characters | {characters} |
| trained on | {pairs} pairs{description} |
| sha256 of the pairs | `{sha256}` |
| error on held-out pairs | {error:.4f} of the teacher's variance (0: the teacher; 1: its mean) |
| retrieval at 1 | {retrieval:.4f} of {held} held-out pairs |
| zhcache | {version} |

```
{command}
```

It knows what its pairs say, and nothing else: characters and matters that they lack are not read.
The figures are about text states, not about pictures.

## 中文

为 `{base}` 读中文提示词：中文编码器加一个小网络，直接给出该模型自带文本编码器对相应英文所给的状态，
模型本身不变。训练用了 {pairs} 对图说；在 {held} 对未参与训练的图说上，误差为教师方差的 {error:.4f}
（0 与教师相同，1 相当于只给均值），检索准确率 {retrieval:.4f}。它只懂训练图说里有的内容。
"""


def card(about: Described, command: str) -> str:
    """Returns the README of an adapter.

    Args:
        about: What it is.
        command: What made it.
    """
    owner, _, short = about.name.rpartition("/")
    description = f": {about.trained_on.description}" if about.trained_on.description else ""
    return _TEXT.format(
        name=about.name,
        short=short if owner in ("", "adapters") else about.name,
        base=about.base.repo,
        commit=about.base.commit,
        kind=about.base.class_name,
        arguments=", ".join(
            f"`{name}` {_form(argument.kind, argument.length, argument.dim)}"
            for name, argument in about.arguments.items()
        ),
        tokens=about.encoder.max_length,
        layers=about.network.layers,
        width=about.network.width,
        characters=(
            "brought to simplified characters and half-width punctuation first"
            if about.simplified
            else "as they are written"
        ),
        pairs=about.trained_on.pairs,
        description=description,
        sha256=about.trained_on.sha256,
        error=about.quality.heldout_error,
        retrieval=about.quality.retrieval,
        held=about.quality.pairs,
        version=about.zhcache,
        command=command,
    )


def _form(kind: str, length: int, dim: int) -> str:
    sizes = {"states": f"{length} x {dim}", "pooled": str(dim), "mask": str(length)}
    return sizes[kind]
