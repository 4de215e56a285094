/** Words of other machines, as they may reach a terminal. */

/** Control characters (also those that steer a terminal), and what reorders, hides or breaks text. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** The text on one line, with a sign in place of every character that is not to be seen. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, '\ufffd');
}

export function isPrintable(text: string): boolean {
  return printable(text) === text;
}
