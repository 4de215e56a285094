"""Checks the peer's frame generation network against reference numbers of the published code.

    python check_dfgn.py <folder of reference numbers>

Expects the cases `dfgn_tiny` (weights, inputs, output, loss and gradients; two sizes of latents), `train_steps` (losses of
three steps) and `ddim` (a sampling loop) in the folder. Prints one line per comparison and ends with 1 when one is beyond
its tolerance: output 5e-5, loss 1e-5, gradients relative L2 1e-3 (1e-2 or 1e-6 absolute for the scalars w1 and w2, which
are small differences of large sums), later steps wider, because AdamW magnifies rounding where a gradient is nearly zero.
"""
import json
import os
import re
import sys

import torch

from dfgn import Dfgn, Sampling, TrainingStep, masked_loss, read_config
from safetensors_file import read_all


class Report:
    def __init__(self):
        self.failed = 0

    def note(self, name, error, tolerance):
        ok = error <= tolerance
        self.failed += not ok
        print(f'{"pass" if ok else "FAIL"}  {name}: {error:.2e}, tolerance {tolerance:.0e}')


def network(folder):
    model = Dfgn(read_config(folder))
    model.load_state_dict(read_all(os.path.join(folder, 'model.safetensors')))
    return model


def check_network(folder, report):
    model = network(folder)
    for case in ('main', 'odd'):
        io = read_all(os.path.join(folder, f'{case}_io.safetensors'))
        output = model(io['input.noisy_latents'], io['input.image_latents'], io['input.timesteps'],
                       io['input.clip_hidden_states'], io['input.t5_hidden_states'])
        loss = masked_loss(output, io['input.target'], io['input.frame_mask'])
        report.note(f'{case} output, largest error', (output - io['output']).abs().max().item(), 5e-5)
        report.note(f'{case} loss', (loss - io['loss']).abs().item(), 1e-5)
        file = os.path.join(folder, f'{case}_grads.safetensors')
        if not os.path.exists(file):
            continue
        loss.backward()
        expected, worst, scalars = read_all(file), 0.0, 0.0
        for name, parameter in model.named_parameters():
            if name.endswith('conv_layers.1.conv2.bias'):  # its gradient is zero but for rounding
                continue
            difference = (parameter.grad - expected[name]).norm().item()
            relative = difference / max(expected[name].norm().item(), 1e-30)
            if re.search(r'\.w[12]$', name):
                scalars = max(scalars, 0.0 if difference <= 1e-6 else relative)
            else:
                worst = max(worst, relative)
        report.note(f'{case} gradients, relative L2', worst, 1e-3)
        report.note(f'{case} gradients of w1 and w2, relative', scalars, 1e-2)


def check_steps(folder, weights, report):
    io = read_all(os.path.join(folder, 'io.safetensors'))
    with open(os.path.join(folder, 'steps.json'), encoding='utf-8') as file:
        steps = json.load(file)['steps']
    train = TrainingStep(network(weights), learning_rate=1e-3)
    for i, (step, tolerance) in enumerate(zip(steps, (1e-5, 1e-4, 3e-4))):
        batch = {name.split('.', 1)[1]: x for name, x in io.items() if name.startswith(f'step{i}.')}
        keep = 0 if step['text_drop'] else 1
        batch['text'], batch['t5'] = keep * batch['clip_hidden_states'], keep * batch['t5_hidden_states']
        report.note(f'training step {i}, loss', abs(train(batch)['loss'] - step['loss']), tolerance)


def check_sampling(folder, weights, report):
    io = read_all(os.path.join(folder, 'sampling_loop.safetensors'))
    sample = Sampling(network(weights), 5, 9.0)
    sample({'noise': io['initial_latents'], 'latents': io['clean_latents'], 'info_mask': io['info_mask'][None],
            'frame_mask': io['frame_mask'][None], 'text': io['clip_hidden_states.positive'],
            'negative_text': io['clip_hidden_states.negative'], 't5': io['t5_hidden_states.positive'],
            'negative_t5': io['t5_hidden_states.negative']})
    report.note('latents after 5 steps of sampling, largest error',
                (sample.latents - io['final_latents']).abs().max().item(), 2e-3)


def main():
    torch.manual_seed(1)
    folder, report = sys.argv[1], Report()
    weights = os.path.join(folder, 'dfgn_tiny')
    check_network(weights, report)
    check_steps(os.path.join(folder, 'train_steps'), weights, report)
    check_sampling(os.path.join(folder, 'ddim'), weights, report)
    print(f'{report.failed} failed')
    sys.exit(1 if report.failed else 0)


if __name__ == '__main__':
    main()
