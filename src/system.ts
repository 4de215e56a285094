/** The few functions of the addon that are public as they are. */

import type { SystemInfo, TensorData } from './native/core.js';
import { native } from './native.js';

/** Instruction set, oneDNN version and threads. @throws DuetError UNSUPPORTED when the addon does not load */
export function systemInfo(): SystemInfo {
  return native.systemInfo();
}

/** Reads a safetensors file. @throws DuetError NOT_FOUND, IO, or CORRUPT for a header that is not sound */
export function readSafetensors(
  path: string,
): Promise<{ metadata: Record<string, string>; tensors: Record<string, TensorData> }> {
  return native.readSafetensors(path);
}

/** Writes a safetensors file atomically: a reader, or a crash, finds the old file or the new one. */
export function writeSafetensors(
  path: string,
  tensors: Record<string, TensorData>,
  metadata: Record<string, string> = {},
): Promise<void> {
  return native.writeSafetensors(path, tensors, metadata);
}
