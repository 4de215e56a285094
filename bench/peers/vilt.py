"""ViLT (arXiv 2102.03334) with bottleneck adapters and a classification head, in plain PyTorch.

The computation and the parameter names are those of Hugging Face's `ViltModel` in its default (eager) form, with the
dual adapters where FedDAT (arXiv 2308.12305) puts them: behind the residual sum that ends every layer. Dropout layers
are left out: every dropout probability is 0 here, and PyTorch's dropout returns its input then.

Shapes: B pictures with questions, L text tokens, P selected patches, T = L + 1 + P tokens, D wide.
"""
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class ViltConfig:
    """The fields of a Hugging Face config.json that matter here; the defaults are ViLT-B/32."""
    vocab_size: int = 30522
    type_vocab_size: int = 2
    max_position_embeddings: int = 40
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    image_size: int = 384
    patch_size: int = 32
    num_channels: int = 3
    modality_type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    qkv_bias: bool = True

    @staticmethod
    def from_json(values):
        known = {name: values[name] for name in ViltConfig.__dataclass_fields__ if name in values}
        return ViltConfig(**known)


class TextEmbeddings(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.word_embeddings = nn.Embedding(c.vocab_size, c.hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(c.max_position_embeddings, c.hidden_size)
        self.token_type_embeddings = nn.Embedding(c.type_vocab_size, c.hidden_size)
        self.LayerNorm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)

    def forward(self, ids, token_types):
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        x = self.word_embeddings(ids) + self.token_type_embeddings(token_types) + self.position_embeddings(positions)
        return self.LayerNorm(x)


class PatchEmbeddings(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.projection = nn.Conv2d(c.num_channels, c.hidden_size, kernel_size=c.patch_size, stride=c.patch_size)

    def forward(self, pixels):
        return self.projection(pixels)


class Embeddings(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.grid = c.image_size // c.patch_size
        self.text_embeddings = TextEmbeddings(c)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.hidden_size))
        self.patch_embeddings = PatchEmbeddings(c)
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + self.grid ** 2, c.hidden_size))
        self.token_type_embeddings = nn.Embedding(c.modality_type_vocab_size, c.hidden_size)
        self.ordered_patches = False  # True: in row-major order instead of the library's random draw

    def draw(self, count, wanted, replacement):
        if self.ordered_patches:
            return torch.arange(wanted)
        return torch.multinomial(torch.ones(count), wanted, replacement=replacement)

    def visual(self, pixels, pixel_mask):
        x = self.patch_embeddings(pixels)
        batch, channels, rows, columns = x.shape
        mask = F.interpolate(pixel_mask[:, None].float(), size=(rows, columns)).long()
        valid_rows = mask[:, 0].sum(dim=1)[:, 0]
        valid_columns = mask[:, 0].sum(dim=2)[:, 0]
        table = self.position_embeddings[:, 1:].transpose(1, 2).view(1, channels, self.grid, self.grid)
        positions = torch.cat([
            F.pad(F.interpolate(table, size=(int(h), int(w)), mode='bilinear', align_corners=True),
                  (0, columns - int(w), 0, rows - int(h)))
            for h, w in zip(valid_rows, valid_columns)
        ], dim=0)
        positions = positions.flatten(2).transpose(1, 2)
        x = x.flatten(2).transpose(1, 2)
        mask = mask.flatten(1)

        wanted = int((valid_rows * valid_columns).max())
        valid, invalid = mask.nonzero(), (1 - mask).nonzero()
        select = []
        for image in range(batch):
            mine, others = valid[valid[:, 0] == image], invalid[invalid[:, 0] == image]
            missing = wanted - len(mine)
            if missing <= 0:
                select.append(mine[self.draw(len(mine), wanted, False)])
            else:
                select.append(torch.cat([mine, others[self.draw(len(others), missing, True)]]))
        select = torch.cat(select)
        x = x[select[:, 0], select[:, 1]].view(batch, -1, channels)
        mask = mask[select[:, 0], select[:, 1]].view(batch, -1)
        positions = positions[select[:, 0], select[:, 1]].view(batch, -1, channels)

        x = torch.cat((self.cls_token.expand(batch, -1, -1), x), dim=1)
        positions = torch.cat((self.position_embeddings[:, :1].expand(batch, -1, -1), positions), dim=1)
        mask = torch.cat((torch.ones(batch, 1, dtype=mask.dtype), mask), dim=1)
        return x + positions, mask

    def forward(self, ids, token_types, text_mask, pixels, pixel_mask):
        text = self.text_embeddings(ids, token_types)
        image, image_mask = self.visual(pixels, pixel_mask)
        text = text + self.token_type_embeddings(torch.zeros_like(text_mask))
        image = image + self.token_type_embeddings(torch.ones_like(image_mask))
        return torch.cat((text, image), dim=1), torch.cat((text_mask, image_mask), dim=1)


class SelfAttention(nn.Module):
    fused = False  # False: product, softmax, product, as the library does; True: PyTorch's fused attention

    def __init__(self, c):
        super().__init__()
        self.heads = c.num_attention_heads
        self.query = nn.Linear(c.hidden_size, c.hidden_size, bias=c.qkv_bias)
        self.key = nn.Linear(c.hidden_size, c.hidden_size, bias=c.qkv_bias)
        self.value = nn.Linear(c.hidden_size, c.hidden_size, bias=c.qkv_bias)

    def split(self, x):
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x, mask):
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        if SelfAttention.fused:
            context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query.dtype))
        else:
            scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(query.shape[-1])
            context = torch.matmul(torch.softmax(scores + mask, dim=-1), value)
        return context.permute(0, 2, 1, 3).contiguous().view(x.shape)


class Dense(nn.Module):
    """One linear layer under the name `dense`, which the file format asks for."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, x):
        return self.dense(x)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attention = SelfAttention(c)
        self.output = Dense(c.hidden_size, c.hidden_size)

    def forward(self, x, mask):
        return self.output(self.attention(x, mask))


class Adapters(nn.Module):
    """Three bottlenecks up_i(relu(down_i(x))). Mode `gated` is the mean of adapters 0 and 2, `adapter_1` the one."""

    def __init__(self, width, bottleneck):
        super().__init__()
        for name in ('adapter_0', 'adapter_1', 'adapter_2'):
            setattr(self, f'{name}_down', nn.Linear(width, bottleneck))
            setattr(self, f'{name}_up', nn.Linear(bottleneck, width))
        self.mode = 'gated'

    def one(self, name, x):
        return getattr(self, f'{name}_up')(F.relu(getattr(self, f'{name}_down')(x)))

    def forward(self, x, residual):
        if self.mode == 'gated':
            return residual + (0.5 * self.one('adapter_0', x) + 0.5 * self.one('adapter_2', x))
        return residual + self.one(self.mode, x)


class Output(nn.Module):
    def __init__(self, c, bottleneck):
        super().__init__()
        self.dense = nn.Linear(c.intermediate_size, c.hidden_size)
        self.adapter = Adapters(c.hidden_size, bottleneck) if bottleneck else None

    def forward(self, x, residual):
        x = self.dense(x) + residual
        return x if self.adapter is None else self.adapter(x, x)


class Layer(nn.Module):
    def __init__(self, c, bottleneck):
        super().__init__()
        self.attention = Attention(c)
        self.intermediate = Dense(c.hidden_size, c.intermediate_size)
        self.output = Output(c, bottleneck)
        self.layernorm_before = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.layernorm_after = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)

    def forward(self, x, mask):
        x = self.attention(self.layernorm_before(x), mask) + x
        return self.output(F.gelu(self.intermediate(self.layernorm_after(x))), x)


class Encoder(nn.Module):
    def __init__(self, c, bottleneck):
        super().__init__()
        self.layer = nn.ModuleList(Layer(c, bottleneck) for _ in range(c.num_hidden_layers))


class Head(nn.Module):
    def __init__(self, width, answers):
        super().__init__()
        self.clf_fc0 = nn.Linear(width, 2 * width)
        self.clf_norm0 = nn.LayerNorm(2 * width)
        self.clf_fc1 = nn.Linear(2 * width, answers)

    def forward(self, x):
        return self.clf_fc1(F.gelu(self.clf_norm0(self.clf_fc0(x))))


class Vilt(nn.Module):
    """`bottleneck` None: no adapters. `answers` None: no head, and the pooled vectors (B x D) are the result."""

    def __init__(self, config, bottleneck=None, answers=None, task='vqa'):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config, bottleneck)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = Dense(config.hidden_size, config.hidden_size)
        self.task = task
        self.task_layer = nn.ModuleDict({task: Head(config.hidden_size, answers)} if answers else {})

    def adapters(self):
        return [layer.output.adapter for layer in self.encoder.layer]

    def set_mode(self, mode):
        for adapter in self.adapters():
            adapter.mode = mode

    def states(self, batch):
        """All hidden states, the normalised last one and the pooled vectors."""
        x, mask = self.embeddings(batch['input_ids'], batch['token_type_ids'], batch['attention_mask'],
                                  batch['pixel_values'], batch['pixel_mask'])
        added = (1.0 - mask[:, None, None, :].to(torch.float32)) * torch.finfo(torch.float32).min
        hidden = [x]
        for layer in self.encoder.layer:
            x = layer(x, added)
            hidden.append(x)
        last = self.layernorm(x)
        return hidden, last, torch.tanh(self.pooler(last[:, 0]))

    def forward(self, batch):
        """Logits (B x answers) and pooled vectors (B x D)."""
        pooled = self.states(batch)[2]
        return self.task_layer[self.task](pooled), pooled


def randomise(model, seed):
    """Normal weights of standard deviation 0.02, zero biases, layer norms at one: as a fresh model starts."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02, generator=generator)
        else:
            nn.init.constant_(parameter, 1.0 if 'norm' in name.lower() and name.endswith('weight') else 0.0)
