"""What single files do not hold: the numbers and class names of each family's parts, as their folders state them.

Only what differs from diffusers' and transformers' defaults, and what those change between versions, is written out.
"""

from __future__ import annotations

from typing import Any

_LEVELS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
_AUTOENCODER = {
    "_class_name": "AutoencoderKL",
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "act_fn": "silu",
}
_CLIP_L = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
_UNET = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4, "layers_per_block": 2}
_UNET_1 = _UNET | {
    "sample_size": 64,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
_UNET_2 = _UNET_1 | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "upcast_attention": True,
}
_TOKENIZER = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}

SD1: dict[str, Any] = {
    "unet": _UNET_1,
    "vae": _AUTOENCODER | {"sample_size": 512, "scaling_factor": 0.18215},
    "text_encoder": _CLIP_L,
    "tokenizer": _TOKENIZER | {"pad_token": "<|endoftext|>"},
    "scheduler": {
        "_class_name": "PNDMScheduler",
        **_LEVELS,
        "prediction_type": "epsilon",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    },
}
SD2: dict[str, Any] = {
    "unet": _UNET_2 | {"sample_size": 96},
    "vae": _AUTOENCODER | {"sample_size": 768, "scaling_factor": 0.18215},
    "text_encoder": _CLIP_L
    | {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 23,
        "hidden_act": "gelu",
        "projection_dim": 512,
    },
    "tokenizer": _TOKENIZER | {"pad_token": "!"},
    "scheduler": {
        "_class_name": "DDIMScheduler",
        **_LEVELS,
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    },
}
SD2_BASE: dict[str, Any] = SD2 | {
    "unet": _UNET_2,
    "vae": SD2["vae"] | {"sample_size": 512},
    "scheduler": SD2["scheduler"] | {"prediction_type": "epsilon"},
}
SDXL: dict[str, Any] = {
    "unet": _UNET
    | {
        "sample_size": 128,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [320, 640, 1280],
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": _AUTOENCODER | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
    "text_encoder": _CLIP_L,
    "text_encoder_2": _CLIP_L
    | {
        "architectures": ["CLIPTextModelWithProjection"],
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 20,
        "num_hidden_layers": 32,
        "hidden_act": "gelu",
        "projection_dim": 1280,
    },
    "tokenizer": _TOKENIZER | {"pad_token": "<|endoftext|>"},
    "tokenizer_2": _TOKENIZER | {"pad_token": "!"},
    "scheduler": {
        "_class_name": "EulerDiscreteScheduler",
        **_LEVELS,
        "prediction_type": "epsilon",
        "timestep_spacing": "leading",
        "steps_offset": 1,
        "interpolation_type": "linear",
        "use_karras_sigmas": False,
    },
}
CONFIGURATIONS: dict[str, dict[str, Any]] = {"sd1": SD1, "sd2": SD2, "sd2-base": SD2_BASE, "sdxl": SDXL}
