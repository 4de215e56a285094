/** The one error type of the package, and how errors of the system and of the native core become it. */

/** All codes a DuetError can have. */
export const ERROR_CODES = [
  'INVALID_ARGUMENT',
  'NOT_FOUND',
  'CORRUPT',
  'UNSUPPORTED',
  'IO',
  'DISK_FULL',
  'CANCELLED',
  'NOT_FINITE',
  'BUDGET_SPENT',
  'OUT_OF_MEMORY',
  'UNAVAILABLE',
  'UNAUTHENTICATED',
  'INTERNAL',
] as const;

/**
 * - `INVALID_ARGUMENT` a value that cannot work
 * - `NOT_FOUND` a file, folder, parameter or client that is not there
 * - `CORRUPT` a file whose content is damaged or contradicts itself
 * - `UNSUPPORTED` something sound that this version does not do
 * - `IO` reading or writing failed for another reason (permissions, a lock, a device)
 * - `DISK_FULL` space or quota ended; what was complete before is kept
 * - `CANCELLED` an AbortSignal or Ctrl-C
 * - `NOT_FINITE` a loss or an update became NaN or infinite
 * - `BUDGET_SPENT` a site has sent as much as its privacy budget allows
 * - `OUT_OF_MEMORY` the machine (or the device) has no room for it
 * - `UNAVAILABLE` a server that cannot be reached or does not answer in time, or too few clients that do
 * - `UNAUTHENTICATED` a server that refuses who asks: a key, a signature, a token, a certificate, a clock that is off
 * - `INTERNAL` a bug of this package
 */
export type DuetErrorCode = (typeof ERROR_CODES)[number];

/**
 * The one error type of the package. A message names the thing, what was expected, what came and how to mend it;
 * `code` is for programs. Errors of the native core carry the same codes and are turned into this type where they
 * surface.
 */
export class DuetError extends Error {
  /** Always `DuetError`. */
  override readonly name = 'DuetError';
  /** What kind of error it is, for programs. */
  readonly code: DuetErrorCode;

  constructor(code: DuetErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** System error codes that have a code of their own here; everything else is `IO`. */
const SYSTEM_CODES: Record<string, DuetErrorCode> = {
  ENOENT: 'NOT_FOUND',
  ENOTDIR: 'NOT_FOUND',
  ENOSPC: 'DISK_FULL',
  EDQUOT: 'DISK_FULL',
};

/** The code of any error: its own, the one of a system error, or `undefined` for something else. */
export function codeOf(error: unknown): DuetErrorCode | undefined {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  if (typeof code !== 'string') return undefined;
  if ((ERROR_CODES as readonly string[]).includes(code)) return code as DuetErrorCode;
  if ('syscall' in (error as object) || code in SYSTEM_CODES) return SYSTEM_CODES[code] ?? 'IO';
  return undefined;
}

/** Errors with a known code (those of the native core) as DuetErrors; anything else unchanged. */
export function asDuetError(error: unknown): unknown {
  if (error instanceof DuetError || !(error instanceof Error)) return error;
  const code = codeOf(error);
  if (code === undefined) return error;
  const converted = new DuetError(code, error.message, { cause: error });
  // The stack of the caller is worth more than the one of this line.
  if (error.stack) converted.stack = error.stack.replace(/^Error/, 'DuetError');
  return converted;
}

/** The DuetError for a failed file operation; `what` says on which file and what it was for. */
export function ioError(error: unknown, what: string, hint?: string): DuetError {
  if (error instanceof DuetError) return error;
  const code = codeOf(error) ?? 'IO';
  const reason = {
    NOT_FOUND: 'no such file or folder',
    DISK_FULL: 'no space is left on its disk',
  }[code as string];
  const inTheWay = {
    ENOTDIR: 'a file is where a folder should be',
    EEXIST: 'a file is where a folder should be',
    EISDIR: 'a folder is where a file should be',
    EACCES: 'permission is denied',
    EPERM: 'permission is denied',
    EROFS: 'its disk is read-only',
    EBUSY: 'it is in use',
  }[String((error as { code?: unknown } | null)?.code)];
  const message = `Cannot ${what}: ${inTheWay ?? reason ?? (error as Error)?.message ?? String(error)}`;
  return new DuetError(code, hint ? `${message}; ${hint}` : message, { cause: error });
}

/** The words of an error for a person: no class name, no stack. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** @throws DuetError CANCELLED when the signal is aborted; its reason, if it has words, is kept */
export function throwIfAborted(signal: AbortSignal | undefined, what = 'The work'): void {
  if (signal === undefined) return;
  if (typeof signal?.addEventListener !== 'function') {
    throw new DuetError('INVALID_ARGUMENT', `Expected AbortSignal for signal but received ${shown(signal)}`);
  }
  if (!signal.aborted) return;
  const reason: unknown = signal.reason;
  if (reason instanceof DuetError && reason.code === 'CANCELLED') throw reason;
  throw new DuetError('CANCELLED', `${what} was cancelled`, { cause: reason });
}

/** How a received value is shown in a message. */
export function shown(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'symbol')
    return String(value);
  if (typeof value === 'function') return 'a function';
  if (ArrayBuffer.isView(value)) return `${value.constructor.name} of ${value.byteLength} bytes`;
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    const kind: unknown = Object.getPrototypeOf(value)?.constructor?.name;
    if (typeof kind === 'string' && kind !== 'Object') return `an object of ${kind}`;
  }
  let text: string;
  try {
    text = JSON.stringify(value);
  } catch {
    text = `a ${typeof value}`;
  }
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
}
