"""One local step of FedDAT (arXiv 2308.12305), in the published order of passes: three forwards, two backwards.

1. Teacher, no gradient: the mean of adapter_0 (local) and adapter_2 (frozen copy of the received shared adapter).
2. adapter_1 alone: L_1 = (BCE + KL to the teacher) / 2, backward, update.
3. Gated again, through the head just updated: L_0 = (BCE + KL to the logits of pass 2) / 2, backward, update.

BCE is multiplied by the number of answers; KL has the temperature T, is the mean over the batch and is multiplied by
T^2. Both updates use one AdamW and one schedule, which advances twice a batch. Gradients are cleared to None, so a
parameter without a gradient is skipped.
"""
import contextlib

import torch
from torch.nn import functional as F


def bce_loss(logits, targets):
    return F.binary_cross_entropy_with_logits(logits, targets) * targets.shape[1]


def kl_loss(logits, teacher, temperature):
    student = F.log_softmax(logits / temperature, dim=1)
    return F.kl_div(student, F.softmax(teacher / temperature, dim=1), reduction='batchmean') * temperature ** 2


def linear_schedule(warmup, steps):
    """Linear warm-up, then linear decay to 0: the factor of the learning rate after k scheduler steps."""
    def factor(k):
        return k / max(1, warmup) if k < warmup else max(0.0, (steps - k) / max(1, steps - warmup))
    return factor


class FedDatStep:
    def __init__(self, model, learning_rate=1e-4, weight_decay=0.01, temperature=3.0, schedule=None, dtype='fp32'):
        self.model, self.temperature, self.dtype = model, temperature, dtype
        self.observe = lambda event, **values: None  # told of what the check compares
        model.requires_grad_(False)
        model.task_layer.requires_grad_(True)
        for adapter in model.adapters():
            for part in ('down', 'up'):
                getattr(adapter, f'adapter_2_{part}').load_state_dict(
                    getattr(adapter, f'adapter_1_{part}').state_dict())
        trained = [(name, parameter) for name, parameter in model.named_parameters()
                   if 'adapter_0' in name or 'adapter_1' in name or 'task_layer' in name]
        plain = [p for name, p in trained if 'bias' in name or 'LayerNorm.weight' in name]
        decayed = [p for name, p in trained if not ('bias' in name or 'LayerNorm.weight' in name)]
        self.trained = dict(trained)
        self.optimizer = torch.optim.AdamW(
            [{'params': decayed, 'weight_decay': weight_decay}, {'params': plain, 'weight_decay': 0.0}],
            lr=learning_rate, betas=(0.9, 0.98), eps=1e-8)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule or (lambda k: 1.0))

    def activate(self, mode, trained):
        self.model.set_mode(mode)
        for adapter in self.model.adapters():
            for name, parameter in adapter.named_parameters():
                parameter.requires_grad_(name.startswith(trained))

    def forward(self, batch):
        compute = torch.autocast('cpu', torch.bfloat16) if self.dtype == 'bf16' else contextlib.nullcontext()
        with compute:
            logits, pooled = self.model(batch)
        return logits.float(), pooled

    def update(self, name, loss):
        loss.backward()
        self.observe('gradients', update=name)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.observe('parameters', update=name)

    def __call__(self, batch, targets):
        """One batch. Returns the losses of both updates."""
        self.activate('gated', 'adapter_0')
        with torch.no_grad():
            logits_all, pooled_all = self.forward(batch)

        self.activate('adapter_1', 'adapter_1')
        logits_1, pooled_1 = self.forward(batch)
        bce_1 = bce_loss(logits_1, targets)
        kl_1 = kl_loss(logits_1, logits_all, self.temperature)
        loss_1 = (bce_1 + kl_1) / 2
        self.update('update_1', loss_1)
        logits_1, pooled_1 = logits_1.detach(), pooled_1.detach()

        self.activate('gated', 'adapter_0')
        logits_0, pooled_0 = self.forward(batch)
        bce_0 = bce_loss(logits_0, targets)
        kl_0 = kl_loss(logits_0, logits_1, self.temperature)
        loss_0 = (bce_0 + kl_0) / 2
        self.update('update_0', loss_0)
        self.observe('outputs', logits_all=logits_all, logits_1=logits_1, logits_0=logits_0,
                     pooled_all=pooled_all, pooled_1=pooled_1, pooled_0=pooled_0)
        return {'bce1': bce_1.item(), 'kl1': kl_1.item(), 'loss1': loss_1.item(),
                'bce0': bce_0.item(), 'kl0': kl_0.item(), 'loss0': loss_0.item()}
