"""The peer of `npm run bench -- feddat-step`: FedDAT's step on ViLT in PyTorch, timed on request.

    python feddat_step.py --check <folder of reference numbers>    proves that it is the published computation
    python feddat_step.py --batch 8 --dtype fp32 --steps 3         times three steps and ends
    python feddat_step.py --batch 8 --dtype fp32                   serves: one command a line, one JSON line back

Commands: `step N` runs N steps; `profile N` runs N steps under PyTorch's profiler; `quit` or the end of input ends.
Answer to `step`: {"seconds": [...], "cpuSeconds": n, "peakBytes": n, "losses": [{...}]}, where peakBytes is the
largest resident size this process has had. Weights and batch are random unless files are given: --model (a Hugging
Face folder), --state (adapters and head), --inputs (one batch). Nothing but PyTorch is needed.
"""
import argparse
import json
import os
import resource
import sys
import time

import torch

import vilt
from feddat import FedDatStep
from safetensors_file import SafetensorsFile, read_all


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', metavar='FOLDER', help='compare with reference numbers and end')
    parser.add_argument('--steps', type=int, help='time this many steps and end, instead of serving')
    parser.add_argument('--profile', type=int, help='profile this many steps and end')
    parser.add_argument('--model', metavar='FOLDER', help='config.json and model.safetensors')
    parser.add_argument('--state', metavar='FILE', help='safetensors of adapters and head')
    parser.add_argument('--inputs', metavar='FILE', help='safetensors of one batch')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--answers', type=int, default=100)
    parser.add_argument('--text-tokens', type=int, default=40)
    parser.add_argument('--reduction', type=int, default=16, help='width of the model over width of an adapter')
    parser.add_argument('--dtype', choices=('fp32', 'bf16'), default='fp32', help='bf16: autocast')
    parser.add_argument('--attention', choices=('eager', 'sdpa'), default='eager',
                        help='eager: as published; sdpa: fused attention')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--learning-rate', type=float, default=1e-4)
    parser.add_argument('--seed', type=int, default=1)
    return parser.parse_args()


def peak_bytes():
    """The largest resident size of this process so far."""
    try:
        with open('/proc/self/status', encoding='ascii') as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith('VmHWM'))
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == 'darwin' else peak * 1024


def read_weights(path, parameters):
    """Copies the file's tensors into the model; the model's other parameters keep their values."""
    with SafetensorsFile(path) as file:
        for name in file.names():
            if name not in parameters:
                raise ValueError(f'{path}: {name} is no parameter of the peer')
            file.read_into(name, parameters[name])


def make_model(options):
    config = vilt.ViltConfig()
    if options.model:
        with open(os.path.join(options.model, 'config.json'), encoding='utf-8') as file:
            config = vilt.ViltConfig.from_json(json.load(file))
    model = vilt.Vilt(config, config.hidden_size // options.reduction, options.answers)
    vilt.randomise(model, options.seed)
    parameters = dict(model.named_parameters())
    if options.model:
        read_weights(os.path.join(options.model, 'model.safetensors'), parameters)
    if options.state:
        read_weights(options.state, parameters)
    return model


def make_batch(options, config):
    if options.inputs:
        batch = read_all(options.inputs)
        for name in ('input_ids', 'token_type_ids', 'attention_mask', 'pixel_mask'):
            batch[name] = batch[name].long()
        return batch, batch.pop('targets')
    generator = torch.Generator().manual_seed(options.seed)
    size, text = config.image_size, (options.batch, options.text_tokens)
    batch = {
        'input_ids': torch.randint(1, config.vocab_size, text, generator=generator),
        'token_type_ids': torch.zeros(text, dtype=torch.long),
        'attention_mask': torch.ones(text, dtype=torch.long),
        'pixel_values': torch.randn(options.batch, config.num_channels, size, size, generator=generator),
        'pixel_mask': torch.ones(options.batch, size, size, dtype=torch.long),
    }
    targets = torch.zeros(options.batch, options.answers)
    targets[torch.arange(options.batch), torch.randint(options.answers, (options.batch,), generator=generator)] = 1.0
    return batch, targets


def run(step, batch, targets, count):
    seconds, losses = [], []
    cpu = time.process_time()
    for _ in range(count):
        start = time.perf_counter()
        losses.append(step(batch, targets))
        seconds.append(time.perf_counter() - start)
    return {'seconds': seconds, 'cpuSeconds': time.process_time() - cpu, 'peakBytes': peak_bytes(), 'losses': losses}


def profile(step, batch, targets, count):
    step(batch, targets)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        run(step, batch, targets, count)
    return profiler.key_averages().table(sort_by='self_cpu_time_total', row_limit=25, max_name_column_width=50)


def main():
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    if options.check:
        from check import check
        sys.exit(1 if check(options.check) else 0)
    imported = peak_bytes()
    vilt.SelfAttention.fused = options.attention == 'sdpa'
    model = make_model(options)
    batch, targets = make_batch(options, model.config)
    step = FedDatStep(model, options.learning_rate, dtype=options.dtype)
    if options.profile:
        print(profile(step, batch, targets, options.profile))
        return

    def answer(values):
        print(json.dumps(values), flush=True)

    if options.steps:
        answer(run(step, batch, targets, options.steps))
        return
    answer({'ready': f'PyTorch {torch.__version__}', 'threads': torch.get_num_threads(), 'importedBytes': imported,
            'attention': options.attention})
    for line in sys.stdin:
        words = line.split()
        if words[:1] == ['step']:
            answer(run(step, batch, targets, int(words[1])))
        elif words[:1] == ['profile']:
            answer({'profile': profile(step, batch, targets, int(words[1]))})
        elif words[:1] == ['quit']:
            break
        else:
            answer({'error': f'Expected "step N", "profile N" or "quit" but received {line.strip()!r}'})


if __name__ == '__main__':
    main()
