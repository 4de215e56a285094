// Calls a public function with every argument, and every setting of an argument, replaced by odd values.

import { DuetError } from '../src/errors.js';

const oddValues: [name: string, value: unknown][] = [
  ['undefined', undefined],
  ['null', null],
  ['true', true],
  ['0', 0],
  ['-1', -1],
  ['1.5', 1.5],
  ['NaN', Number.NaN],
  ['a BigInt', 10n],
  ['a symbol', Symbol('x')],
  ['an empty text', ''],
  ['a text', 'yes'],
  ['a function', () => 1],
  ['an object', {}],
  ['an object without prototype', Object.create(null)],
  ['an empty list', []],
  ['a list of odd things', [undefined, null, {}, 'x']],
  ['a Float64Array', new Float64Array(3)],
  ['an empty Float32Array', new Float32Array()],
];

export type Call = (...args: never[]) => unknown;

/** What is thrown or rejected, also by the first steps of a generator; undefined when nothing is. */
async function outcome(call: () => unknown): Promise<unknown> {
  try {
    const result = await call();
    if (typeof (result as AsyncGenerator | undefined)?.return === 'function') {
      const generator = result as AsyncGenerator;
      await generator.next();
      await generator.return(undefined);
    }
    (result as Partial<Disposable> | undefined)?.[Symbol.dispose]?.();
    return undefined;
  } catch (error) {
    return error;
  }
}

function isPlain(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/**
 * What was thrown that is not a DuetError with words, one line each.
 * @param good arguments that work, made anew for every call
 */
export async function unusualErrors(call: Call, good: () => unknown[]): Promise<string[]> {
  const found: string[] = [];
  const attempt = async (what: string, args: unknown[]) => {
    const error = await outcome(() => call(...(args as never[])));
    if (error === undefined || (error instanceof DuetError && error.code !== 'INTERNAL')) return;
    found.push(`${what}: ${error instanceof Error ? `${error.name}: ${error.message}` : String(error)}`);
  };
  await attempt('good arguments', good());
  for (const [position, argument] of good().entries()) {
    for (const [name, value] of oddValues) {
      const args = good();
      args[position] = value;
      await attempt(`${name} for argument ${position}`, args);
      for (const field of isPlain(argument) ? Object.keys(argument) : []) {
        const changed = good();
        changed[position] = { ...(changed[position] as object), [field]: value };
        await attempt(`${name} for ${field} of argument ${position}`, changed);
      }
    }
  }
  return found;
}
