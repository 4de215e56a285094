/**
 * As much of vitest as the tests of ops use, for machines without node_modules: the same test files, bundled with this in
 * its place (scripts/gpu-bundle.mjs), run under plain Node.
 */

import {
  ASYMMETRIC_MATCHERS_OBJECT,
  customMatchers,
  GLOBAL_EXPECT,
  getState,
  JestAsymmetricMatchers,
  JestChaiExpect,
  JestExtend,
  setState,
} from '@vitest/expect';
import * as chai from 'chai';

type Body = () => unknown;
type Each = (name: string, body: (...values: never[]) => unknown, timeout?: number) => void;

interface Suite {
  name: string;
  before: Body[];
  after: Body[];
  entries: (Suite | { name: string; body: Body; skipped: boolean })[];
}

export interface Failure {
  name: string;
  message: string;
}

chai.use(JestExtend);
chai.use(JestChaiExpect);
chai.use(JestAsymmetricMatchers);

export const expect = ((value: unknown, message?: string) => {
  setState({ assertionCalls: getState(expect as never).assertionCalls + 1 }, expect as never);
  return chai.expect(value, message);
}) as never as Chai.ExpectStatic & Record<string, unknown>;
Object.assign(expect, chai.expect);
Object.assign(expect, (globalThis as Record<symbol, object>)[ASYMMETRIC_MATCHERS_OBJECT as never]);
setState(
  { assertionCalls: 0, isExpectingAssertions: false, expectedAssertionsNumber: null },
  expect as never,
);
(globalThis as Record<symbol, unknown>)[GLOBAL_EXPECT as never] = expect;
(chai.expect as never as { extend(expect: unknown, matchers: object): void }).extend(expect, customMatchers);

const root: Suite = { name: '', before: [], after: [], entries: [] };
let current = root;

/** vitest's: `%s`, `%i`, `%j` by position, `$key` of the first value. */
function named(pattern: string, values: readonly unknown[]): string {
  let next = 0;
  return pattern
    .replace(/%[sdifj]/g, () => {
      const value = values[next++];
      return typeof value === 'string' ? value : JSON.stringify(value);
    })
    .replace(/\$(\w+)/g, (_, key) => String((values[0] as Record<string, unknown> | null)?.[key]));
}

function eachOf(define: (name: string, body: Body) => void): (table: readonly unknown[]) => Each {
  return (table) => (name, body) => {
    for (const row of table) {
      const values = Array.isArray(row) ? row : [row];
      define(named(name, values), () => body(...(values as never[])));
    }
  };
}

function suite(name: string, body: Body): void {
  const made: Suite = { name, before: [], after: [], entries: [] };
  const outer = current;
  outer.entries.push(made);
  current = made;
  body();
  current = outer;
}

function one(name: string, body: Body, skipped = false): void {
  current.entries.push({ name, body, skipped });
}

export const describe = Object.assign(suite, {
  each: eachOf(suite),
  skipIf: (skip: unknown) => (name: string, body: Body) =>
    skip ? one(`${name} (all)`, () => {}, true) : suite(name, body),
});
export const test = Object.assign((name: string, body: Body) => one(name, body), {
  each: eachOf(one),
  skipIf: (skip: unknown) =>
    Object.assign((name: string, body: Body) => one(name, body, Boolean(skip)), {
      each: eachOf((name, body) => one(name, body, Boolean(skip))),
    }),
});
export const it = test;
export const beforeAll = (body: Body) => current.before.push(body);
export const afterAll = (body: Body) => current.after.push(body);

/** Runs what was described so far, in order. */
export async function runAll(): Promise<{ passed: number; skipped: number; failures: Failure[] }> {
  const result = { passed: 0, skipped: 0, failures: [] as Failure[] };
  const run = async (group: Suite, path: string) => {
    for (const before of group.before) await before();
    for (const entry of group.entries) {
      const name = path ? `${path} > ${entry.name}` : entry.name;
      if ('entries' in entry) await run(entry, name);
      else if (entry.skipped) result.skipped++;
      else {
        try {
          await entry.body();
          result.passed++;
        } catch (error) {
          result.failures.push({ name, message: error instanceof Error ? error.message : String(error) });
        }
      }
    }
    for (const after of group.after) await after();
  };
  await run(root, '');
  root.entries.length = 0;
  return result;
}
