"""Published pipelines as the planner sees them: sizes of their weights, and their configurations.

Gigabytes of the published files in 16 bits; configurations as they are in the repositories, those
numbers of them that are reckoned with.
"""

from zhcache.placement import activation
from zhcache.placement.devices import Device, Machine, chosen
from zhcache.placement.families import family_of
from zhcache.placement.model import Model
from zhcache.placement.sizes import Part
from zhcache.protocol.placement import WeightsList, WeightsPart

GB = 10**9
GIB = 2**30

CLIP = {"hidden_size": 768, "num_attention_heads": 12, "max_position_embeddings": 77}
T5 = {"d_model": 4096}
QWEN = {"hidden_size": 3584, "num_attention_heads": 28}
VAE = {"block_out_channels": [128, 256, 512, 512], "sample_size": 1024}
VAE_VIDEO = {"base_dim": 96}

# Kind of the denoiser, its configuration, the VAE's, the encoders'; then component: GB.
PUBLISHED = {
    "sd15": (
        "UNet2DConditionModel",
        {"block_out_channels": [320, 640, 1280, 1280], "sample_size": 64},
        {**VAE, "sample_size": 512},
        [CLIP],
        {"text_encoder": 0.246, "safety_checker": 0.608, "unet": 1.719, "vae": 0.167},
    ),
    "sdxl": (
        "UNet2DConditionModel",
        {"block_out_channels": [320, 640, 1280], "sample_size": 128, "plain_first": True},
        {**VAE, "force_upcast": True},
        [CLIP],
        {"text_encoder": 0.246, "text_encoder_2": 1.39, "unet": 5.135, "vae": 0.167},
    ),
    "sd35": (
        "SD3Transformer2DModel",
        {"num_attention_heads": 38, "attention_head_dim": 64, "sample_size": 128, "patch_size": 2},
        VAE,
        [CLIP, T5],
        {
            "text_encoder": 0.247,
            "text_encoder_2": 1.39,
            "text_encoder_3": 9.525,
            "transformer": 16.29,
            "vae": 0.168,
        },
    ),
    "flux": (
        "FluxTransformer2DModel",
        {"num_attention_heads": 24, "attention_head_dim": 128, "guidance_embeds": True},
        VAE,
        [CLIP, T5],
        {"text_encoder": 0.246, "text_encoder_2": 9.525, "transformer": 23.803, "vae": 0.168},
    ),
    "flux2": (
        "Flux2Transformer2DModel",
        {"num_attention_heads": 48, "attention_head_dim": 128, "guidance_embeds": True},
        VAE,
        [{"hidden_size": 5120, "num_attention_heads": 32}],
        {"text_encoder": 48.0, "transformer": 64.4, "vae": 0.168},
    ),
    "qwen": (
        "QwenImageTransformer2DModel",
        {"num_attention_heads": 24, "attention_head_dim": 128},
        VAE_VIDEO,
        [QWEN],
        {"text_encoder": 16.584, "transformer": 40.861, "vae": 0.254},
    ),
    "wan": (
        "WanTransformer3DModel",
        {"num_attention_heads": 40, "attention_head_dim": 128},
        VAE_VIDEO,
        [T5],
        {"text_encoder": 11.361, "transformer": 28.577, "vae": 0.508},
    ),
    "zimage": (
        "ZImageTransformer2DModel",
        {"dim": 3840},
        VAE,
        [{"hidden_size": 2560, "num_attention_heads": 32}],
        {"text_encoder": 8.045, "transformer": 12.31, "vae": 0.168},
    ),
    "pixart": (
        "PixArtTransformer2DModel",
        {"num_attention_heads": 16, "attention_head_dim": 72, "sample_size": 128, "patch_size": 2},
        VAE,
        [T5],
        {"text_encoder": 9.525, "transformer": 1.222, "vae": 0.168},
    ),
    "hunyuan": (
        "HunyuanDiT2DModel",
        {"num_attention_heads": 16, "attention_head_dim": 88, "sample_size": 128, "patch_size": 2},
        VAE,
        [CLIP, T5],
        {"text_encoder": 0.704, "text_encoder_2": 3.34, "transformer": 3.02, "vae": 0.168},
    ),
}
PIPELINES = {
    "sd15": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd35": "StableDiffusion3Pipeline",
    "pixart": "PixArtSigmaPipeline",
    "zimage": "ZImagePipeline",
}
SHARE = {None: 1.0, "fp32": 2.0, "fp8": 0.5, "int8": 0.52, "int4": 0.29}
"""Of the 16 bits; quantized are the large linear layers, so that the VAE and norms stay."""


def model(name, variant=None, *, size=None, there=()):
    """Returns a published pipeline, in a variant, for calls of a size (width, height, batch)."""
    kind, denoiser, vae, encoders, parts = PUBLISHED[name]
    share = SHARE[variant]
    calls = activation.needs(
        denoiser,
        vae,
        encoders,
        kind=kind,
        width=4 if variant == "fp32" else 2,
        size=activation.Size(*size) if size else None,
    )
    held = {
        part: _part(int(size * GB * (share if size > 1 else max(share, 1.0))))
        for part, size in parts.items()
    }
    heads = denoiser.get("num_attention_heads", 0)
    pipeline = PIPELINES.get(name, "")
    family = family_of(kind)
    asked = activation.Size(*size) if size else activation.own_size(denoiser, vae, family)
    return Model(
        held,
        calls,
        family,
        heads,
        pipeline,
        frozenset(there),
        tokens=0 if family.is_unet else activation.tokens(denoiser, vae, family, asked),
        side=activation.side(denoiser, vae, family),
    )


def weights(repo, name):
    """Returns a published pipeline as a daemon tells of it."""
    kind, denoiser, vae, encoders, parts = PUBLISHED[name]
    texts = iter(encoders)
    told = {}
    for part, size in parts.items():
        config = {"transformer": denoiser, "unet": denoiser, "vae": vae}.get(part)
        held = _part(int(size * GB))
        told[part] = WeightsPart(
            library="diffusers",
            class_name=kind if config is denoiser else "Other",
            bytes=held.bytes,
            largest=held.largest,
            block=held.block,
            dtype="bfloat16",
            config=next(texts, {}) if config is None else config,
        )
    return WeightsList(
        repo=repo, commit="0" * 40, variant=None, parts=told, pipeline=PIPELINES.get(name, "")
    )


def machine(text, *, host=512, there=()):
    """Returns the devices of ``text``; ``there`` are GPUs of the machine, in GiB free."""
    gpus = [
        Device(f"cuda:{n}", 80 * GIB, int(free * GIB), f"GPU-{n:08x}")
        for n, free in enumerate(there)
    ]
    memory = Device("cpu", host * GIB, host * GIB)
    return chosen(text, Machine(gpus, [gpu.name for gpu in gpus], memory))


def _part(size):
    return Part(size, largest=size // 40, block=size // 30, dtype="bfloat16")
