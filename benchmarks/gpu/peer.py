"""The loop that users of diffusers train with: Custom Diffusion, with diffusers' own processors, step by step.

As its published training script does, it encodes the pictures and captions of every step in it, learns K and V of the
cross-attentions and the table of embeddings, adds the loss of priors, and reads the loss off the device for its log.
"""

from __future__ import annotations

import copy
import time

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor2_0, CustomDiffusionAttnProcessor2_0
from torch import Tensor, nn

from sdk import Personalizer

from .models import PLAIN
from .sizes import Sizes
from .timing import wait


class Loop:
    """One training, ready for its first step.

    Args:
        personalizer: the base model, left as it is.
        sizes: rows and steps.
        compiled: whether ``torch.compile`` has the UNet; in a dry run without generating code.
    """

    def __init__(self, personalizer: Personalizer, sizes: Sizes, compiled: bool) -> None:
        pipe = personalizer.pipe
        self.device, self.rows = sizes.device, sizes.fit_rows
        self.vae, self.side = pipe.vae, personalizer.resolution
        self.encoder = copy.deepcopy(pipe.text_encoder).float().requires_grad_(False)
        self.table = self.encoder.get_input_embeddings().weight.requires_grad_(True)
        unet = copy.deepcopy(pipe.unet).requires_grad_(False)
        self.learned = _custom_diffusion(unet)
        backend = "eager" if sizes.tiny else "inductor"
        self.unet = torch.compile(unet, backend=backend) if compiled else unet
        self.levels = DDPMScheduler.from_config(pipe.scheduler.config)
        length = pipe.tokenizer.model_max_length
        read = pipe.tokenizer([PLAIN] * self.rows, padding="max_length", max_length=length, return_tensors="pt")
        self.ids = read.input_ids.to(self.device)
        self.optimizer = torch.optim.AdamW([*self.learned, self.table], lr=1e-5)

    def step(self) -> float:
        """Do one step; return its loss."""
        pictures = torch.rand(self.rows, 3, self.side, self.side, device=self.device, dtype=self.vae.dtype) * 2 - 1
        with torch.no_grad():
            clean = self.vae.encode(pictures).latent_dist.sample() * self.vae.config.scaling_factor
        noise = torch.randn_like(clean)
        times = torch.randint(0, self.levels.config.num_train_timesteps, (self.rows,), device=self.device)
        noisy = self.levels.add_noise(clean, noise, times)
        with torch.autocast(self.device.type, torch.bfloat16):
            states = self.encoder(self.ids)[0]
            predicted: Tensor = self.unet(noisy, times, states).sample
        both = zip(predicted.float().chunk(2), noise.float().chunk(2), strict=True)
        loss = sum((F.mse_loss(ours, right) for ours, right in both), torch.zeros((), device=self.device))
        loss.backward()
        nn.utils.clip_grad_norm_([*self.learned, self.table], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def _custom_diffusion(unet: nn.Module) -> list[nn.Parameter]:
    """Give a UNet diffusers' processors with K and V that learn, starting from its own; return these."""
    processors, learned = {}, []
    for name in unet.attn_processors:
        if not name.endswith("attn2.processor"):
            processors[name] = AttnProcessor2_0()
            continue
        layer = unet.get_submodule(name.removesuffix(".processor"))
        one = CustomDiffusionAttnProcessor2_0(
            train_kv=True,
            train_q_out=False,
            hidden_size=layer.to_k.out_features,
            cross_attention_dim=layer.to_k.in_features,
        ).to(layer.to_k.weight.device, torch.float32)
        with torch.no_grad():
            one.to_k_custom_diffusion.weight.copy_(layer.to_k.weight)
            one.to_v_custom_diffusion.weight.copy_(layer.to_v.weight)
        learned += list(one.parameters())
        processors[name] = one
    unet.set_attn_processor(processors)
    return learned


def loop_times(loop: Loop, sizes: Sizes) -> tuple[float, float]:
    """Train for some steps; return the seconds of the first one and of a late one."""
    wait(sizes.device)
    ends = [time.perf_counter()]
    for _ in range(sizes.fit_steps):
        loop.step()
        ends.append(time.perf_counter())
    late = len(ends) - 1 - sizes.warm_from
    return ends[1] - ends[0], (ends[-1] - ends[sizes.warm_from]) / late
