// The table of docs/gpu-kernels.md from the compiler's report of one target:
//
//   cmake -S . -B build-report -DDUET_CUDA=ON -DDUET_CUDA_ARCHITECTURES=90a-real -DCMAKE_CUDA_FLAGS="-Xptxas -v"
//   make -C build-report duet_cuda 2>&1 | node scripts/gpu-kernels.mjs > docs/gpu-kernels.md
//
// A kernel's variants (types, alignment, sizes) are one line with the least and the most of them.
import { readFileSync } from 'node:fs';
import { fail, outputOf } from './common.mjs';

/** Mangled name, target, registers, shared bytes and spilled bytes of every kernel. */
function entriesOf(report) {
  const entries = [];
  let spills = 0;
  for (const line of report.split('\n')) {
    const begin = /Compiling entry function '(\S+)' for '(\S+)'/.exec(line);
    const spilled = /(\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    const used = /Used (\d+) registers/.exec(line);
    if (begin) entries.push({ name: begin[1], target: begin[2] });
    else if (spilled) spills = Number(spilled[1]) + Number(spilled[2]);
    else if (used && entries.length > 0)
      Object.assign(entries.at(-1), {
        registers: Number(used[1]),
        shared: Number(/(\d+) bytes smem/.exec(line)?.[1] ?? 0),
        spills,
      });
  }
  return entries.filter((entry) => entry.registers !== undefined);
}

/** `void duet::gpu::(anonymous namespace)::rowKernel<float>(int)` is rowKernel. */
const shortName = (name) =>
  /(?:^|::)(\w+)(?:<.*)?$/.exec(
    name
      .replace(/^void /, '')
      .replaceAll('(anonymous namespace)::', '')
      .replace(/\(.*$/, ''),
  )?.[1] ?? name;

const entries = entriesOf(readFileSync(0, 'utf8'));
if (entries.length === 0)
  fail('Expected the report of nvcc -Xptxas -v on standard input but found no kernel in it');
const names = outputOf('c++filt', [], { input: entries.map((entry) => entry.name).join('\n') })?.split('\n');
const target = entries[0].target;
const kernels = new Map();
for (const [i, entry] of entries.entries()) {
  if (entry.target !== target) continue;
  const name = shortName(names?.[i] ?? entry.name);
  kernels.set(name, [...(kernels.get(name) ?? []), entry]);
}
const range = (values) => {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return least === most ? `${most}` : `${least} to ${most}`;
};
const lines = [...kernels]
  .sort(([a], [b]) => a.localeCompare(b))
  .map(([name, variants]) => {
    const of = (key) => range(variants.map((variant) => variant[key]));
    return `| ${name} | ${variants.length} | ${of('registers')} | ${of('shared')} | ${of('spills')} |`;
  });
process.stdout.write(`# Registers, shared memory and spills of the kernels

Made by \`scripts/gpu-kernels.mjs\` from the compiler's report for ${target}. Shared memory is what a kernel has by itself, without
what its launch adds; spills are the bytes of stores and loads.

| kernel | variants | registers | shared bytes | spilled bytes |
|---|---|---|---|---|
${lines.join('\n')}
`);
