/** Updates on their way from a request to a checked file. An upload that broke off is continued where it ended. */

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Readable } from 'node:stream';
import type { z } from 'zod';
import { codeOf, ioError, messageOf } from '../../errors.js';
import type { TensorData, Tensors } from '../../native/core.js';
import { native } from '../../native.js';
import { opened } from '../../run/files.js';
import { validated } from '../../validation.js';
import type { UpdateCodec } from '../compression.js';
import { OFFSET_HEADER, Refusal, updateSchema } from './protocol.js';

/** What an update may be at most; absent: no limit. */
export interface UpdateLimits {
  /** Euclidean norm of update - received, over all parameters. */
  norm?: number;
  /** Training samples a client may claim. */
  samples?: number;
}

export interface Upload {
  part: string;
  /** Byte at which this body begins. */
  offset: number;
  /** Bytes of the whole. */
  length: number;
  /** SHA-256 of the whole, hex. */
  digest: string;
}

/** Bytes of a part that are here; 0 where there is none. */
export async function receivedBytes(part: string): Promise<number> {
  return stat(part).then(
    ({ size }) => size,
    () => 0,
  );
}

/** @throws Refusal OFFSET with the byte to continue at */
export async function checkOffset({ part, offset }: Upload): Promise<void> {
  const here = await receivedBytes(part);
  if (offset === here) return;
  const headers = { [OFFSET_HEADER]: String(here) };
  throw new Refusal('OFFSET', `this upload continues at byte ${here}`, headers);
}

/**
 * Appends a body to its part until the update is whole and its hash is right.
 * @throws Refusal TOO_LARGE, INVALID for one that ends early (the part stays), DIGEST (the part goes)
 */
export async function receive(
  body: Readable,
  upload: Upload,
  onBytes: (count: number) => void,
): Promise<void> {
  const { part, length, digest } = upload;
  const hash = createHash('sha256');
  if (upload.offset > 0) for await (const chunk of createReadStream(part)) hash.update(chunk as Uint8Array);
  let size = upload.offset;
  const file = await opened(part, 'a').catch((error) => {
    throw ioError(error, `write ${part}`);
  });
  try {
    if (body.destroyed) throw new Refusal('CLOSING', 'the connection was lost');
    // A refusal is still to be answered on this stream.
    for await (const chunk of body.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>) {
      onBytes(chunk.length);
      if (size + chunk.length > length)
        throw new Refusal('TOO_LARGE', `the update has more than its ${length} bytes`);
      size += chunk.length;
      hash.update(chunk);
      await file.appendFile(chunk).catch((error) => {
        throw ioError(error, `write ${part}`);
      });
    }
    if (size < length) throw new Refusal('INVALID', `the update ended after ${size} of ${length} bytes`);
    await file.datasync();
  } finally {
    await file.close();
  }
  if (hash.digest('hex') === digest) return;
  await rm(part, { force: true });
  throw new Refusal('DIGEST', 'the update has another SHA-256 than was announced: it was damaged on its way');
}

export interface Expected {
  codec: UpdateCodec;
  /** Shared parameters this client was sent, with their shapes. */
  parameters: Record<string, TensorData>;
  limits: UpdateLimits;
}

/** The parameters of a checked update. */
export async function readUpdate(path: string, codec: UpdateCodec, received: Tensors): Promise<Tensors> {
  return codec.decode((await native.readSafetensors(path)).tensors, received);
}

/** Whether it is the content of an update that cannot be read. */
export function isUnfit(error: unknown): boolean {
  return ['CORRUPT', 'INVALID_ARGUMENT', 'UNSUPPORTED', 'NOT_FINITE'].includes(codeOf(error) ?? '');
}

/** What an update says of itself. */
export type UpdateWords = z.output<typeof updateSchema>;

/**
 * Makes the finished part the update that counts.
 * @throws Refusal REFUSED with the reason when it cannot count; the part is gone then
 */
export async function accept(part: string, path: string, expected: Expected): Promise<UpdateWords> {
  let about: UpdateWords;
  try {
    about = await check(part, expected);
  } catch (error) {
    await rm(part, { force: true });
    throw isUnfit(error) ? new Refusal('REFUSED', messageOf(error)) : error;
  }
  await rename(part, path);
  const folder = await open(dirname(path), 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
  return about;
}

async function check(part: string, { codec, parameters, limits }: Expected): Promise<UpdateWords> {
  const file = await native.readSafetensors(part).catch((error: unknown) => {
    if (codeOf(error) !== 'CORRUPT') throw error;
    throw new Refusal(
      'REFUSED',
      `the update is no safetensors file: ${messageOf(error).replaceAll(part, 'it')}`,
    );
  });
  const about = validated(updateSchema, json(file.metadata.duet), 'the metadata of the update');
  if (about.codec !== codec.name)
    throw new Refusal('REFUSED', `the update is written as ${about.codec} but ${codec.name} was agreed on`);
  if (limits.samples !== undefined && about.samples > limits.samples)
    throw new Refusal(
      'REFUSED',
      `the update claims ${about.samples} samples, more than the limit of ${limits.samples}`,
    );
  const received = valuesOf(parameters);
  checkShapes(file.tensors, parameters);
  const values = codec.decode(file.tensors, received);
  if (limits.norm === undefined) return about;
  let squares = 0;
  for (const [name, before] of Object.entries(received))
    squares += (await native.distance(values[name] as Float32Array, before)) ** 2;
  const norm = Math.sqrt(squares);
  if (norm <= limits.norm) return about;
  throw new Refusal(
    'REFUSED',
    `the update has norm ${norm.toPrecision(6)}, more than the limit of ${limits.norm}`,
  );
}

/** Other types are lists of values, whose number the codec checks. */
function checkShapes(tensors: Record<string, TensorData>, parameters: Record<string, TensorData>): void {
  for (const [name, { dtype, shape }] of Object.entries(tensors)) {
    const expected = parameters[name]?.shape.join(' x ');
    const came = shape.join(' x ');
    if (dtype === 'f32' && expected !== undefined && came !== expected)
      throw new Refusal('REFUSED', `${name} of the update has shape ${came} instead of ${expected}`);
  }
}

/** Values without their shapes. */
export function valuesOf(tensors: Record<string, TensorData>): Tensors {
  return Object.fromEntries(Object.entries(tensors).map(([name, { data }]) => [name, data as Float32Array]));
}

function json(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? 'null');
  } catch {
    return undefined;
  }
}
