// Bundles what runs on a bare machine with a GPU, without node_modules and without the test runner, into dist-gpu/bundle/:
//
//   node scripts/gpu-bundle.mjs
//   DUET_ADDON=<dir>/duet.node DUET_TEST_DEVICE=cuda node dist-gpu/bundle/ops.mjs [part of a file's name ...]
//
//   DUET_ADDON=<dir>/duet.node node dist-gpu/bundle/duet.mjs golden <dir> --device cuda      the command line
//
// ops.mjs holds all of tests/ops with bench/gpu/bare-vitest.ts in vitest's place. Pictures (sharp) are left out.
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { rolldown } from 'rolldown';
import { root } from './common.mjs';

const out = path.join(root, 'dist-gpu/bundle');
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });

const tests = readdirSync(path.join(root, 'tests/ops')).filter((name) => name.endsWith('.test.ts'));
const entry = path.join(out, 'entry.ts');
writeFileSync(
  entry,
  [
    "import { runAll } from '../../bench/gpu/bare-vitest.ts';",
    'const wanted = process.argv.slice(2);',
    'let failed = 0;',
    'let passed = 0;',
    `const files: [string, () => Promise<unknown>][] = [${tests
      .map((name) => `['${name}', () => import('../../tests/ops/${name}')]`)
      .join(', ')}];`,
    'for (const [name, load] of files) {',
    '  if (wanted.length > 0 && !wanted.some((part) => name.includes(part))) continue;',
    '  const start = performance.now();',
    '  await load();',
    '  const { passed: ok, skipped, failures } = await runAll();',
    '  passed += ok;',
    '  failed += failures.length;',
    '  const seconds = ((performance.now() - start) / 1000).toFixed(1);',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the bundle's own
    '  console.log(`${name}: ${ok} passed, ${failures.length} failed, ${skipped} skipped, ${seconds} s`);',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the bundle's own
    '  for (const { name: what, message } of failures) console.log(`  FAIL ${what}\\n       ${message}`);',
    '}',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the bundle's own
    'console.log(`${passed} passed, ${failed} failed`);',
    'process.exit(failed > 0 ? 1 : 0);',
  ].join('\n'),
);
const bundle = await rolldown({
  input: { ops: entry, duet: path.join(root, 'dist/cli/main.js') }, // compiled: plain Node knows no `using`
  platform: 'node',
  external: ['sharp', 'node-gyp-build', 'onnxruntime-node'],
  resolve: {
    alias: { vitest: path.join(root, 'bench/gpu/bare-vitest.ts') },
    extensionAlias: { '.js': ['.ts', '.js'] },
  },
});
await bundle.write({ dir: out, format: 'esm', entryFileNames: '[name].mjs', chunkFileNames: '[name].mjs' });
rmSync(entry);
