// Tests run on the TypeScript sources; the addon comes from build/Release (or DUET_ADDON).
// `duet-train`, as users import it, means the sources too, so that the examples are tested as written.
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  resolve: {
    alias: [{ find: /^duet-train$/, replacement: fileURLToPath(new URL('./src/index.ts', import.meta.url)) }],
  },
  test: {
    include: ['tests/**/*.test.ts'],
    setupFiles: process.env.DUET_LEAK_CHECK ? ['scripts/leak-check.mjs'] : [],
    // One process a file: a native crash names its file, and the addon's threads end with it.
    pool: 'forks',
    maxWorkers: Number(process.env.DUET_TEST_WORKERS ?? 2),
    testTimeout: 120_000 * Number(process.env.DUET_TEST_PATIENCE ?? 1),
    hookTimeout: 120_000 * Number(process.env.DUET_TEST_PATIENCE ?? 1),
    teardownTimeout: 20_000,
    passWithNoTests: false,
  },
});
