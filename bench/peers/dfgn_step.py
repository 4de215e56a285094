"""The peer of `npm run bench -- dfgn-step` and `-- dfgn-sample`: the frame generation network in PyTorch, timed on request.

    python dfgn_step.py --model <folder> --inputs <file> --dtype fp32                  serves training steps
    python dfgn_step.py --model <folder> --inputs <file> --sample 10 --guidance 9      serves clips of 10 sampling steps

One command a line, one JSON line back: `step N` runs N training steps (or generates N times), `profile N` does so under
PyTorch's profiler, `flops` counts the FLOP of one, `quit` or the end of input ends. Answer to `step`:
{"seconds": [...], "cpuSeconds": n, "peakBytes": n, "losses": [{...}]}, where peakBytes is the largest resident size this
process has had. With `--steps N` it does that once and ends; `--flops` and `--profile N` likewise.
Needs PyTorch and diffusers.
"""
import argparse
import json
import os
import resource
import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from dfgn import Dfgn, Sampling, TrainingStep, read_config
from safetensors_file import SafetensorsFile, read_all


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', metavar='FOLDER', required=True, help='config.json and model.safetensors')
    parser.add_argument('--inputs', metavar='FILE', required=True, help='safetensors of one batch')
    parser.add_argument('--sample', metavar='STEPS', type=int, help='generate clips instead of training')
    parser.add_argument('--guidance', type=float, default=9.0)
    parser.add_argument('--steps', type=int, help='time this many and end, instead of serving')
    parser.add_argument('--profile', type=int, help='profile this many and end')
    parser.add_argument('--flops', action='store_true', help='count the FLOP of one and end')
    parser.add_argument('--dtype', choices=('fp32', 'bf16'), default='fp32', help='bf16: autocast')
    parser.add_argument('--optimizer', choices=('usual', 'fused'), default='usual', help="AdamW's implementation")
    parser.add_argument('--learning-rate', type=float, default=3e-5)
    parser.add_argument('--threads', type=int, default=2)
    return parser.parse_args()


def peak_bytes():
    """The largest resident size of this process so far."""
    try:
        with open('/proc/self/status', encoding='ascii') as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith('VmHWM'))
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == 'darwin' else peak * 1024


def make_model(folder):
    """Without initial values, and with weights read straight into their place: loading adds nothing to the peak."""
    with torch.device('meta'):
        model = Dfgn(read_config(folder))
    model = model.to_empty(device='cpu')
    parameters = dict(model.named_parameters())
    with SafetensorsFile(os.path.join(folder, 'model.safetensors')) as file:
        if set(file.names()) != set(parameters):
            raise ValueError(f'{folder}: these names are on one side only: '
                             f'{sorted(set(file.names()) ^ set(parameters))[:8]}')
        for name, parameter in parameters.items():
            file.read_into(name, parameter)
    return model


def read_batch(path):
    batch = read_all(path)
    for name in ('timesteps', 'info_mask', 'frame_mask'):
        batch[name] = batch[name].long()
    return batch


def run(work, batch, count):
    seconds, losses = [], []
    cpu = time.process_time()
    for _ in range(count):
        start = time.perf_counter()
        losses.append(work(batch))
        seconds.append(time.perf_counter() - start)
    return {'seconds': seconds, 'cpuSeconds': time.process_time() - cpu, 'peakBytes': peak_bytes(), 'losses': losses}


def profile(work, batch, count):
    work(batch)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        run(work, batch, count)
    return profiler.key_averages().table(sort_by='self_cpu_time_total', row_limit=40, max_name_column_width=60)


def count_flops(work, batch):
    """FLOP of matrix products, convolutions and attention, forward and backward, as PyTorch counts them."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    shapes = {attention: lambda q, k, v, *a, out_shape=None, **b: sdpa_flop_count(q, k, v),
              backward: lambda grad, q, k, v, *a, out_shape=None, **b: sdpa_backward_flop_count(grad, q, k, v)}
    with FlopCounterMode(display=False, custom_mapping=shapes) as counter:
        work(batch)
    return {'total': counter.get_total_flops(),
            'byOperation': {str(op): n for op, n in counter.get_flop_counts()['Global'].items()}}


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    imported = peak_bytes()
    model, batch = make_model(options.model), read_batch(options.inputs)
    if options.sample:
        work = Sampling(model, options.sample, options.guidance, options.dtype)
    else:
        work = TrainingStep(model, options.learning_rate, dtype=options.dtype, fused=options.optimizer == 'fused')

    def answer(values):
        print(json.dumps(values), flush=True)

    if options.profile:
        print(profile(work, batch, options.profile))
        return
    if options.flops:
        answer(count_flops(work, batch))
        return
    if options.steps:
        answer(run(work, batch, options.steps))
        return
    answer({'ready': f'PyTorch {torch.__version__}', 'threads': torch.get_num_threads(), 'importedBytes': imported})
    for line in sys.stdin:
        words = line.split()
        if words[:1] == ['step']:
            answer(run(work, batch, int(words[1])))
        elif words[:1] == ['profile']:
            answer({'profile': profile(work, batch, int(words[1]))})
        elif words[:1] == ['flops']:
            answer(count_flops(work, batch))
        elif words[:1] == ['quit']:
            break
        else:
            answer({'error': f'Expected "step N", "profile N", "flops" or "quit" but received {line.strip()!r}'})


if __name__ == '__main__':
    main()
