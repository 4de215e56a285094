"""The discrete frame generation network (DFGN) of RDTF in PyTorch, with the published parameter names.

Its blocks are those of the `diffusers` package wherever the published network uses them unchanged: ResnetBlock2D,
Transformer2DModel, TransformerTemporalModel, Attention, FeedForward, Downsample2D, Upsample2D. The spatio-temporal
interaction layer and the way the parts are put together are written here. Pictures are [clips * frames, C, h, w],
the frames of a clip one behind another; text and time are repeated for every frame, as published.
"""
import json
import os

import torch
import torch.nn.functional as F
from diffusers.models.attention import Attention, FeedForward
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import nn

FRAMES = 8


class StiLayer(nn.Module):
    """GroupNorm(w1 * semantic + w2 * detail). Semantic: attention over all frames' tokens of the halved pictures, laid
    on the input. Detail: residual convolutions over pictures whose channels are the frames, one picture a channel."""

    def __init__(self, channels, groups):
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))
        self.transformer_blocks = Attention(query_dim=channels, heads=8, dim_head=32, bias=False)
        self.conv_layers = nn.ModuleList(
            ResnetBlock2D(in_channels=FRAMES, out_channels=FRAMES, temb_channels=None, groups=1, eps=1e-6)
            for _ in range(2))
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)

    def forward(self, x):
        pictures, channels, height, width = x.shape
        clips = pictures // FRAMES
        half = F.avg_pool2d(x, 2, 2)
        h, w = half.shape[2:]
        tokens = half.reshape(clips, FRAMES, channels, h * w).transpose(2, 3).reshape(clips, FRAMES * h * w, channels)
        tokens = self.transformer_blocks(tokens)
        half = tokens.reshape(pictures, h * w, channels).transpose(1, 2).reshape(pictures, channels, h, w)
        semantic = F.interpolate(half, size=(height, width), mode='nearest') + x
        detail = x.reshape(clips, FRAMES, channels, height, width).transpose(1, 2)
        detail = detail.reshape(clips * channels, FRAMES, height, width)
        for block in self.conv_layers:
            detail = block(detail, None)
        detail = detail.reshape(clips, channels, FRAMES, height, width).transpose(1, 2).reshape(x.shape)
        return self.norm(self.w1 * semantic + self.w2 * detail)


class Block(nn.Module):
    """Residual blocks, each followed by an interaction layer and, with `head`, by the two transformers."""

    def __init__(self, widths, config, head, sampler=None):
        super().__init__()
        out, groups = widths[0][1], config['norm_num_groups']
        time = 4 * config['block_out_channels'][0]
        self.resnets = nn.ModuleList(
            ResnetBlock2D(in_channels=a, out_channels=b, temb_channels=time, eps=1e-5, groups=groups)
            for a, b in widths)
        self.temp_convs = nn.ModuleList(StiLayer(out, groups) for _ in widths)
        if head:
            heads = out // head
            self.attentions = nn.ModuleList(
                Transformer2DModel(heads, head, in_channels=out, num_layers=1, norm_num_groups=groups,
                                   cross_attention_dim=config['cross_attention_dim'], use_linear_projection=True)
                for _ in widths[:config['layers_per_block'] + 1])
            self.temp_attentions = nn.ModuleList(
                TransformerTemporalModel(heads, head, in_channels=out, num_layers=1, norm_num_groups=groups)
                for _ in self.attentions)
        if sampler == 'down':
            self.downsamplers = nn.ModuleList([Downsample2D(out, use_conv=True, out_channels=out, padding=1, name='op')])
        if sampler == 'up':
            self.upsamplers = nn.ModuleList([Upsample2D(out, use_conv=True, out_channels=out)])

    def attend(self, i, x, context):
        if not hasattr(self, 'attentions'):
            return x
        x = self.attentions[i](x, encoder_hidden_states=context, return_dict=False)[0]
        return self.temp_attentions[i](x, num_frames=FRAMES, return_dict=False)[0]

    def layer(self, i, x, time, context):
        return self.attend(i, self.temp_convs[i](self.resnets[i](x, time)), context)


class MiddleBlock(Block):
    """Two residual blocks; the transformers stand behind the first alone."""

    def __init__(self, width, config):
        super().__init__([(width, width)] * 2, config, 0)
        head, groups = config['attention_head_dim'], config['norm_num_groups']
        self.attentions = nn.ModuleList([
            Transformer2DModel(width // head, head, in_channels=width, num_layers=1, norm_num_groups=groups,
                               cross_attention_dim=config['cross_attention_dim'], use_linear_projection=True)])
        self.temp_attentions = nn.ModuleList([
            TransformerTemporalModel(width // head, head, in_channels=width, num_layers=1, norm_num_groups=groups)])

    def forward(self, x, time, context):
        x = self.layer(0, x, time, context)
        return self.temp_convs[1](self.resnets[1](x, time))


class ImageEncoder(nn.Module):
    """x += attention(LN(x)); x += feed-forward(x): over the frames of every pixel of the image latents."""

    def __init__(self, width):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(query_dim=width, heads=2, dim_head=width, bias=False)
        self.ff = FeedForward(width, activation_fn='gelu')

    def forward(self, x):
        x = x + self.attn1(self.norm1(x))
        return x + self.ff(x)


class Dfgn(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        widths, layers, groups = config['block_out_channels'], config['layers_per_block'], config['norm_num_groups']
        head, channels, text = config['attention_head_dim'], config['in_channels'], config['cross_attention_dim']
        first, last = widths[0], len(widths) - 1
        self.context_T5_clip_embedding = nn.Sequential(
            nn.Linear(config['t5_dim'], 2 * text), nn.SiLU(), nn.Linear(2 * text, text))
        self.image_latents_proj_in = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 16, 3, padding=1), nn.SiLU(),
            nn.Conv2d(16, channels, 3, padding=1))
        self.image_latents_temporal_encoder = ImageEncoder(channels)
        self.time_proj = Timesteps(first, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(first, 4 * first, act_fn='silu')
        self.conv_in = nn.Conv2d(2 * channels, first, 3, padding=1)
        self.transformer_in = TransformerTemporalModel(8, head, in_channels=first, num_layers=1, norm_num_groups=groups)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[max(i - 1, 0)]
            self.down_blocks.append(Block([(before, width)] + [(width, width)] * (layers - 1), config,
                                          head if i < last else 0, 'down' if i < last else None))
        self.mid_block = MiddleBlock(widths[-1], config)
        upwards = widths[::-1]
        for i, width in enumerate(upwards):
            stream, below = upwards[max(i - 1, 0)], upwards[min(i + 1, last)]
            inputs = [(stream if j == 0 else width) + (below if j == layers else width) for j in range(layers + 1)]
            self.up_blocks.append(Block([(a, width) for a in inputs], config, head if i > 0 else 0,
                                        'up' if i < last else None))
        self.conv_norm_out = nn.GroupNorm(groups, first, eps=1e-5)
        self.conv_out = nn.Conv2d(first, channels, 3, padding=1)

    def forward(self, noisy, image, times, clip_states, t5_states):
        """noisy, image: [B, C, F, h, w]; times: [B]; states: [B, tokens, width]. Gives the noise of noisy's shape."""
        clips, channels, frames, height, width = noisy.shape
        time = self.time_embedding(self.time_proj(times).to(noisy.dtype)).repeat_interleave(frames, dim=0)
        context = torch.cat([self.context_T5_clip_embedding(t5_states), clip_states], dim=1)
        context = context.repeat_interleave(frames, dim=0)

        def pictures(x):
            return x.transpose(1, 2).reshape(clips * frames, channels, height, width)

        image = self.image_latents_proj_in(pictures(image)).reshape(clips, frames, channels, height * width)
        image = image.permute(0, 3, 1, 2).reshape(clips * height * width, frames, channels)
        image = self.image_latents_temporal_encoder(image).reshape(clips, height * width, frames, channels)
        image = image.permute(0, 2, 3, 1).reshape(clips * frames, channels, height, width)

        x = self.conv_in(torch.cat([pictures(noisy), image], dim=1))
        x = self.transformer_in(x, num_frames=frames, return_dict=False)[0]
        skips = [x]
        for block in self.down_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, x, time, context)
                skips.append(x)
            if hasattr(block, 'downsamplers'):
                x = block.downsamplers[0](x)
                skips.append(x)
        x = self.mid_block(x, time, context)
        sized = any(side % 2 ** (len(self.up_blocks) - 1) for side in (height, width))
        for block in self.up_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, torch.cat([x, skips.pop()], dim=1), time, context)
            if hasattr(block, 'upsamplers'):
                x = block.upsamplers[0](x, skips[-1].shape[2:] if sized else None)
        x = self.conv_out(F.silu(self.conv_norm_out(x)))
        return x.reshape(clips, frames, channels, height, width).transpose(1, 2)


def masked_loss(output, target, frame_mask):
    """Mean over all elements, those of padded frames included as zeros; as published."""
    mask = frame_mask.to(output.dtype)[:, None, :, None, None]
    return F.mse_loss((mask * output).float(), (mask * target).float())


def read_config(folder):
    with open(os.path.join(folder, 'config.json'), encoding='utf-8') as file:
        return json.load(file)


def alphas():
    """The cumulative products of the published noise schedule."""
    return torch.cumprod(1 - torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000) ** 2, dim=0)


class TrainingStep:
    """Forward, backward, clipping of the gradients' norm and AdamW over all parameters; bf16 through autocast."""

    def __init__(self, model, learning_rate=3e-5, weight_decay=0.01, dtype='fp32', fused=False):
        self.model, self.dtype, self.alphas = model, dtype, alphas()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.999), eps=1e-8,
                                           weight_decay=weight_decay, fused=fused or None)

    def __call__(self, batch):
        latents, noise, times = batch['latents'], batch['noise'], batch['timesteps']
        alpha = self.alphas[times][:, None, None, None, None]
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        given = (batch['info_mask'] * batch['frame_mask']).to(latents.dtype)[:, None, :, None, None]
        with torch.autocast('cpu', torch.bfloat16, enabled=self.dtype == 'bf16'):
            output = self.model(noisy, latents * given, times, batch['text'], batch['t5'])
            loss = masked_loss(output, noise, batch['frame_mask'])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {'loss': loss.item()}


class Sampling:
    """DDIM with guidance as published: in every step one pass over the negative and the positive text together."""

    def __init__(self, model, steps, guidance, dtype='fp32'):
        self.model, self.steps, self.guidance, self.dtype, self.alphas = model, steps, guidance, dtype, alphas()

    @torch.no_grad()
    def __call__(self, batch):
        x, stride = batch['noise'], 1000 // self.steps
        given = (batch['info_mask'] * batch['frame_mask']).to(x.dtype)[:, None, :, None, None]
        image = torch.cat([batch['latents'] * given] * 2)
        text = torch.cat([batch['negative_text'], batch['text']])
        t5 = torch.cat([batch['negative_t5'], batch['t5']])
        with torch.autocast('cpu', torch.bfloat16, enabled=self.dtype == 'bf16'):
            for i in range(self.steps):
                t = (self.steps - 1 - i) * stride + 1
                now, after = self.alphas[t], self.alphas[max(t - stride, 0)]
                negative, positive = self.model(torch.cat([x, x]), image, torch.full((len(text),), t), text,
                                                t5).float().chunk(2)
                noise = negative + self.guidance * (positive - negative)
                clean = (x - (1 - now).sqrt() * noise) / now.sqrt()
                x = after.sqrt() * clean + (1 - after).sqrt() * noise
        self.latents = x
        return {'rms': x.square().mean().sqrt().item()}
