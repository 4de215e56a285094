"""Checks the peer against reference numbers of the published code, so that what is timed is provably that computation.

`feddat_step.py --check <folder>` expects the cases `vilt_tiny` (the encoder) and `dat_steps` (four training steps) in
the folder, prints one line per comparison and ends with 1 when one is beyond its tolerance (relative 1e-5 for hidden
states, ten times the stored distance to float64 for training, and a wider bound for parameters: Adam magnifies rounding
where a gradient is nearly zero).
"""
import json
import os
import re

import torch

from feddat import FedDatStep, linear_schedule
from safetensors_file import read_all
from vilt import Vilt, ViltConfig


class Report:
    def __init__(self):
        self.failed = 0

    def compare(self, name, got, want, tolerance):
        error = (got.double() - want.double()).abs().max().item() if want.numel() else 0.0
        ok = got.shape == want.shape and error <= tolerance
        self.failed += not ok
        print(f'{"pass" if ok else "FAIL"}  {name}: largest error {error:.2e}, tolerance {tolerance:.2e}')


def read_json(*path):
    with open(os.path.join(*path), encoding='utf-8') as file:
        return json.load(file)


def check_encoder(folder, report):
    model = Vilt(ViltConfig.from_json(read_json(folder, 'config.json')))
    model.load_state_dict(read_all(os.path.join(folder, 'model.safetensors')))
    model.embeddings.ordered_patches = True
    for case in read_json(folder, 'info.json')['cases']:
        inputs = read_all(os.path.join(folder, f'{case}.inputs.safetensors'))
        expected = read_all(os.path.join(folder, f'{case}.outputs.safetensors'))
        with torch.no_grad():
            hidden, last, pooled = model.states(inputs)
        got = {f'hidden_states.{i}': x for i, x in enumerate(hidden)}
        got.update(last_hidden_state=last, pooler_output=pooled)
        for name, value in got.items():
            report.compare(f'vilt_tiny {case} {name}', value, expected[name],
                           1e-5 * max(1.0, expected[name].abs().max().item()))


def official(name):
    """The peer's parameter name as the published code spells it."""
    if name.startswith('task_layer.'):
        return name
    return 'vilt_encoder.vilt.' + re.sub(r'(layer\.\d+\.output)\.dense', r'\1.layer.dense', name)


def check_steps(folder, report):
    config, expected = read_json(folder, 'config.json'), read_all(os.path.join(folder, 'skip_none.safetensors'))
    steps = read_json(folder, 'skip_none.json')
    noise = steps['max_abs_diff_to_float64']
    head = config['head']
    model = Vilt(ViltConfig.from_json(config['vilt']), config['adapter']['bottleneck'], head['num_labels'],
                 head['task_key'])
    initial = read_all(os.path.join(folder, 'init.safetensors'))
    model.load_state_dict({name: initial[official(name)] for name in model.state_dict()})
    model.embeddings.ordered_patches = True
    options, schedule = config['optimizer'], config['schedule']
    step = FedDatStep(model, options['lr'], options['weight_decay'], config['kl_temperature'],
                      linear_schedule(schedule['warmup_steps'], schedule['max_steps']))
    parameters = dict(model.named_parameters())
    batches = read_all(os.path.join(folder, 'batches.safetensors'))
    worst = {}

    def note(key, got, want, tolerance):
        error = (got.double() - want.double()).abs().max().item()
        if key not in worst or error / tolerance > worst[key][0]:
            worst[key] = (error / tolerance, error, tolerance)

    number = 0

    def observe(event, update=None, **outputs):
        for name, value in outputs.items():
            note(f'batch{number}.{name}', value, expected[f'batch{number}.{name}'],
                 10 * noise[f'batch{number}.logits'])
        for name, parameter in parameters.items():
            if event == 'gradients':
                want = expected.get(f'batch{number}.{update}.grad.{official(name)}')
                if number == 0 and (want is None) != (parameter.grad is None):
                    raise ValueError(f'{update}: gradient of {name} expected {want is not None}')
                if want is not None:
                    note(f'batch{number}.{update}.gradients', parameter.grad, want, 10 * noise['batch0.grads'])
            elif event == 'parameters':
                want = expected.get(f"batch{number}.after_{update}.{official(name)}")
                if want is not None:
                    note(f'batch{number}.after_{update}', parameter.detach(), want,
                         20 * noise[f'batch{number}.params'])

    step.observe = observe
    count = len(steps['batches'])
    for number in range(count):
        batch = {key.split('.', 1)[1]: value for key, value in batches.items() if key.startswith(f'batch{number}.')}
        losses = step(batch, batch.pop('target_scores'))
        for ours, theirs in (('bce1', 'bce_1'), ('kl1', 'kl_1'), ('loss1', 'L_1'),
                             ('bce0', 'bce_0'), ('kl0', 'kl_0'), ('loss0', 'L_0')):
            want = steps['batches'][number][theirs]
            note(f'batch{number}.losses', torch.tensor(losses[ours]), torch.tensor(want), 1e-5 * max(1.0, abs(want)))
    for name, parameter in step.trained.items():
        state = step.optimizer.state[parameter]
        for moment in ('exp_avg', 'exp_avg_sq'):
            note(f'final {moment}', state[moment], expected[f'opt.{moment}.{official(name)}'],
                 20 * noise[f'batch{count - 1}.params'])
        note('step counters', state['step'], torch.tensor(float(steps['adam_step_counts'][official(name)])), 0.5)
    for name, parameter in parameters.items():
        if 'adapter_2' in name:
            note('adapter_2 stays', parameter.detach(), expected[f'final.{official(name)}'], 1e-12)
    for key, (ratio, error, tolerance) in worst.items():
        report.failed += ratio > 1
        print(f'{"pass" if ratio <= 1 else "FAIL"}  dat_steps {key}: largest error {error:.2e}, '
              f'tolerance {tolerance:.2e}')


def check(folder):
    """Returns the number of comparisons beyond their tolerance."""
    report = Report()
    check_encoder(os.path.join(folder, 'vilt_tiny'), report)
    check_steps(os.path.join(folder, 'dat_steps'), report)
    print(f'{report.failed} failed')
    return report.failed
