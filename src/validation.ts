/**
 * Checks of settings and files against zod schemas, with problems told in the wording of the package:
 * `Expected number of at least 1 for rounds but received 0`.
 */

import type { z } from 'zod';
import { unknownKeys } from './arguments.js';
import { DuetError, type DuetErrorCode, shown } from './errors.js';

/**
 * Checks `value` against a schema and returns what the schema makes of it.
 * @param what the thing in a message, e.g. `federation options`
 * @throws DuetError with `code` whose message has one sentence a problem, each of the form
 *   `Expected number of at least 1 for rounds but received 0`
 */
export function validated<S extends z.ZodType>(
  schema: S,
  value: unknown,
  what: string,
  code: DuetErrorCode = 'INVALID_ARGUMENT',
): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const problems = result.error.issues.flatMap((issue) => sentences(issue, value, schema));
  const shownProblems = problems.slice(0, 5).join('. ');
  const more = problems.length > 5 ? `. And ${problems.length - 5} more` : '';
  throw new DuetError(code, `${shownProblems}${more} (in ${what})`);
}

type Issue = z.core.$ZodIssue;

function at(value: unknown, path: readonly PropertyKey[]): unknown {
  let here = value;
  for (const key of path) here = (here as Record<PropertyKey, unknown> | null | undefined)?.[key];
  return here;
}

function nameOf(path: readonly PropertyKey[]): string {
  let name = '';
  for (const key of path)
    name += typeof key === 'number' ? `[${key}]` : name ? `.${String(key)}` : String(key);
  return name || 'the value';
}

/** One issue as sentences in the wording of the package. */
function sentences(issue: Issue, root: unknown, schema: z.ZodType): string[] {
  const name = nameOf(issue.path);
  const received = shown(at(root, issue.path));
  if (issue.code === 'unrecognized_keys') {
    const path = issue.path.length > 0 ? `${name}.` : '';
    return [unknownKeys(issue.keys, keysAt(schema, issue.path), path)];
  }
  return [`Expected ${expectation(issue)} for ${name} but received ${received}`];
}

/** What is looked at of a schema: what it wraps, the elements of a list, the fields of an object. */
interface SchemaPart {
  def?: { innerType?: SchemaPart; element?: SchemaPart };
  shape?: Record<PropertyKey, SchemaPart>;
}

/** The keys an object at this place may have; none where there are several forms. */
function keysAt(schema: z.ZodType, path: readonly PropertyKey[]): string[] {
  let here: SchemaPart | undefined = schema as SchemaPart;
  for (const key of [...path, undefined]) {
    while (here?.def?.innerType) here = here.def.innerType;
    if (key !== undefined) here = here?.shape?.[key] ?? here?.def?.element;
  }
  return Object.keys(here?.shape ?? {});
}

function expectation(issue: Issue): string {
  // Messages given in a schema are written as "Expected <this>"; zod's own never begin so.
  if (issue.message.startsWith('Expected ')) return issue.message.slice('Expected '.length);
  switch (issue.code) {
    case 'invalid_type':
      return { int: 'integer', array: 'list' }[issue.expected as string] ?? issue.expected;
    case 'too_small': {
      const bound = `${issue.inclusive ? 'of at least' : 'above'} ${issue.minimum}`;
      return issue.origin === 'array' || issue.origin === 'string' ? `length ${bound}` : `number ${bound}`;
    }
    case 'too_big': {
      const bound = `${issue.inclusive ? 'of at most' : 'below'} ${issue.maximum}`;
      return issue.origin === 'array' || issue.origin === 'string' ? `length ${bound}` : `number ${bound}`;
    }
    case 'not_multiple_of':
      return `multiple of ${issue.divisor}`;
    case 'invalid_value':
      return issue.values.length === 1
        ? shown(issue.values[0])
        : `one of ${issue.values.map((value) => shown(value)).join(', ')}`;
    case 'invalid_union':
      return 'one of its allowed forms';
    default:
      return `something else (${issue.message})`;
  }
}
