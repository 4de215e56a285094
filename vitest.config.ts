// Tests run on the TypeScript sources; the addon comes from build/Release (or DUET_ADDON).
// `duet-train`, as users import it, means the sources too, so that the examples are tested as written.
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const here = fileURLToPath(new URL('.', import.meta.url));
const addons = process.env.DUET_ADDON ? dirname(process.env.DUET_ADDON) : join(here, 'build/Release');
const emulated = existsSync(join(addons, 'duet-emulated.so'));

export default defineConfig({
  resolve: {
    alias: [{ find: /^duet-train$/, replacement: fileURLToPath(new URL('./src/index.ts', import.meta.url)) }],
  },
  test: {
    setupFiles: process.env.DUET_LEAK_CHECK ? ['scripts/leak-check.mjs'] : [],
    // One process a file: a native crash names its file, and the addon's threads end with it.
    pool: 'forks',
    maxWorkers: Number(process.env.DUET_TEST_WORKERS ?? 2),
    testTimeout: 120_000 * Number(process.env.DUET_TEST_PATIENCE ?? 1),
    hookTimeout: 120_000 * Number(process.env.DUET_TEST_PATIENCE ?? 1),
    teardownTimeout: 20_000,
    passWithNoTests: false,
    projects: [
      { extends: true, test: { name: 'host', include: ['tests/**/*.test.ts'] } },
      // The tests of ops once more, with the GPU's kernels on an emulated GPU.
      ...(emulated
        ? [
            {
              extends: true as const,
              test: {
                name: 'emulated',
                include: ['tests/ops/*.test.ts'],
                env: { DUET_TEST_DEVICE: 'emulated' },
              },
            },
          ]
        : []),
    ],
  },
});
