// A vitest setup file, used by scripts/asan.mjs alone: after each test file, collect garbage so that
// finalizers run, then ask leak sanitizer what is lost.
import { createRequire } from 'node:module';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll } from 'vitest';

afterAll(async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc');
  for (let round = 0; round < 3; round++) {
    collect();
    await setImmediate();
  }
  createRequire(import.meta.url)(process.env.DUET_LEAK_CHECK).check();
});
