/** Options several commands share, and the parsing of numbers with the wording of the package. */

import { InvalidArgumentError, Option } from 'commander';
import { type DeviceName, deviceSchema } from '../device.js';
import { type ComputeType, computeTypes } from '../native/core.js';

export interface RuntimeFlags {
  device: DeviceName;
  threads: number;
}

export interface ComputeFlags extends RuntimeFlags {
  compute: ComputeType;
}

export function deviceOption(): Option {
  return new Option('--device <device>', 'where to compute: cpu, cuda, cuda:<index>, or auto')
    .argParser((text) => {
      const { success, data } = deviceSchema.safeParse(text);
      if (success) return data;
      throw new InvalidArgumentError(`Expected cpu, cuda, cuda:<index> or auto but received ${text}.`);
    })
    .default('cpu');
}

export function threadsOption(): Option {
  const option = new Option(
    '--threads <count>',
    'threads of the native core; 0 takes one per physical processor',
  );
  return option.argParser(integer(0)).default(0);
}

export function computeOption(): Option {
  return new Option('--compute <type>', 'type of matrix products').choices([...computeTypes]).default('fp32');
}

export function integer(least: number, most = Number.MAX_SAFE_INTEGER): (text: string) => number {
  const range = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `from ${least} to ${most}`;
  return (text) => {
    const value = Number(text);
    if (!/^\d+$/.test(text.trim()) || value < least || value > most) {
      throw new InvalidArgumentError(`Expected an integer ${range} but received ${text}.`);
    }
    return value;
  };
}

export function integers(least: number): (text: string) => number[] {
  return (text) => separated(text).map(integer(least));
}

/** Integers of which none comes twice. */
export function differentIntegers(least: number): (text: string) => number[] {
  return (text) => list(text).map(integer(least));
}

/** Integers with commas between them that may repeat. */
export function integerList(least: number): (text: string) => number[] {
  return (text) => text.split(',').map(integer(least));
}

export function positive(text: string): number {
  const value = decimal(text);
  if (Number.isFinite(value) && value > 0) return value;
  throw new InvalidArgumentError(`Expected a number above 0 but received ${text}.`);
}

export function share(text: string): number {
  const value = decimal(text);
  if (value >= 0 && value <= 1) return value;
  throw new InvalidArgumentError(`Expected a number from 0 to 1 but received ${text}.`);
}

/** Of AdamW, whose steps are about as long as its rate: above 1 nothing can be learnt. */
export function learningRate(text: string): number {
  const value = decimal(text);
  if (value > 0 && value <= 1) return value;
  throw new InvalidArgumentError(`Expected a number above 0 and of at most 1 but received ${text}.`);
}

/** Digits with a point and an exponent; NaN for anything else, which `Number` alone would read, too (0x10, spaces). */
function decimal(text: string): number {
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text.trim()) ? Number(text) : Number.NaN;
}

function separated(text: string): string[] {
  const items = text.split(',').map((item) => item.trim());
  if (items.some((item) => item === '')) {
    throw new InvalidArgumentError(`Expected values with commas between them but received "${text}".`);
  }
  return items;
}

/** `a,b,c` as a list of different names. */
export function list(text: string): string[] {
  const items = separated(text);
  if (new Set(items).size < items.length) {
    throw new InvalidArgumentError(`Expected each only once but received ${text}.`);
  }
  return items;
}

/** A list of names out of `choices`. */
export function listOf(choices: readonly string[]): (text: string) => string[] {
  return (text) => {
    const items = list(text);
    const unknown = items.filter((item) => !choices.includes(item));
    if (unknown.length === 0) return items;
    throw new InvalidArgumentError(
      `Expected names among ${choices.join(', ')} but received ${unknown.join(', ')}.`,
    );
  };
}
