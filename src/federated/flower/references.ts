/**
 * The JSON object of names and object ids in Flower's records, written as Python does so that ids agree. JavaScript's own parser
 * would reorder names like `10` and hide a name that comes twice.
 */

import { corrupt } from './corrupt.js';

/** A JSON string of ASCII alone. */
export function asciiJson(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}

export function formatReferences(references: Iterable<readonly [string, string]>): string {
  return `{${Array.from(references, ([name, id]) => `${asciiJson(name)}: "${id}"`).join(', ')}}`;
}

/** @throws DuetError CORRUPT for anything but one flat object of strings with different names */
export function parseReferences(text: string, what: string): Map<string, string> {
  const references = new Map<string, string>();
  let at = 0;
  const skipSpace = () => {
    while (' \t\n\r'.includes(text[at] ?? '-')) at++;
  };
  const token = (character: string, expected: string) => {
    skipSpace();
    if (text[at] !== character) throw corrupt(expected, `character ${at} of ${what}`, text[at]);
    at++;
  };
  const string = (): string => {
    const expected = 'a JSON string';
    token('"', expected);
    const start = at;
    while (text[at] !== '"') {
      if (at >= text.length) throw corrupt(expected, `character ${start} of ${what}`, undefined);
      at += text[at] === '\\' ? 2 : 1;
    }
    return JSON.parse(text.slice(start - 1, ++at)) as string;
  };

  token('{', 'a JSON object');
  skipSpace();
  while (text[at] !== '}') {
    if (references.size > 0) token(',', 'a comma');
    const name = string();
    token(':', 'a colon');
    if (references.has(name)) throw corrupt('each name once', what, name);
    references.set(name, string());
    skipSpace();
  }
  at++;
  skipSpace();
  if (at !== text.length) throw corrupt('nothing after the object', what, text.slice(at));
  return references;
}
