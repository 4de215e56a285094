/** What made a run: stored for people, never compared. */

import { createRequire } from 'node:module';
import { native } from '../native.js';

const require = createRequire(import.meta.url);

/** The version in package.json. */
export function packageVersion(): string {
  return (require('../../package.json') as { version: string }).version;
}

/** Versions and machine, with what may move the last bits of a number: instruction set, library, threads. */
export function versions(): Record<string, string | number> {
  const { isa, onednn, threads } = native.systemInfo();
  return {
    'duet-train': packageVersion(),
    node: process.versions.node,
    platform: `${process.platform}-${process.arch}`,
    onednn,
    isa,
    threads,
  };
}
