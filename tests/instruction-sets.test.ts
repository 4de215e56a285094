// The addon runs on any x86-64: wide registers appear only in kernels compiled for AVX2 or AVX-512, never in
// code shared with them (see the link order in CMakeLists.txt).
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const addon = process.env.DUET_ADDON ?? fileURLToPath(new URL('../build/Release/duet.node', import.meta.url));
const objdump = spawnSync('objdump', ['--version']).status === 0;

let reason: string | undefined;
if (process.arch !== 'x64') reason = `kernels have one build on ${process.arch}`;
else if (!objdump) reason = 'objdump (binutils) is not installed';
else if (!existsSync(addon)) reason = `there is no ${addon}`;
else if (process.env.DUET_SANITIZED) reason = 'the sanitizer changes the code';
if (reason) console.log(`Wide registers are not looked for: ${reason}`);

/** Functions that use a register of these, by their mangled names. */
function functionsUsing(register: RegExp): string[] {
  const listing = execFileSync('objdump', ['-d', '--no-show-raw-insn', '--section=.text', addon], {
    encoding: 'utf8',
    maxBuffer: 2 ** 29,
  });
  const found = new Set<string>();
  let current = '';
  for (const line of listing.split('\n')) {
    const label = /^[0-9a-f]+ <(.*)>:$/.exec(line)?.[1];
    if (label) current = label;
    else if (register.test(line)) found.add(current);
  }
  return [...found];
}

describe.skipIf(reason)('instruction sets', () => {
  test('wide registers stay within the kernels compiled for them', () => {
    const wide = functionsUsing(/%[yz]mm\d/);
    expect(wide.some((name) => name.includes('avx512'))).toBe(true);
    expect(wide.some((name) => name.includes('avx2'))).toBe(true);
    expect(wide.filter((name) => !/\d(avx2|avx512)/.test(name))).toEqual([]);
    expect(functionsUsing(/%zmm\d/).filter((name) => !/\davx512/.test(name))).toEqual([]);
  });
});
