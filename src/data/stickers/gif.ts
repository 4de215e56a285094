/**
 * Whether a GIF (GIF89a, appendix A) is whole. The picture decoder takes what is there of a file that was cut short: fewer
 * frames, and a last one that is partly missing.
 */

const HEADER_BYTES = 13;
const EXTENSION = 0x21;
const GRAPHIC_CONTROL = 0xf9;
const IMAGE = 0x2c;

/**
 * Walks the blocks up to the trailer. Files of complete blocks that lack the trailer alone are taken, as decoders do; what is no
 * block is left to the decoder.
 * @throws Error when a block is cut
 */
export function checkGifBlocks(file: Buffer): void {
  if (file.toString('latin1', 0, 3) !== 'GIF') return;
  let at = skipColors(file, HEADER_BYTES, 10);
  let announced = false;
  while (at < file.length) {
    const kind = file[at];
    if (kind === EXTENSION) {
      announced ||= file[at + 1] === GRAPHIC_CONTROL;
      at = skipSubBlocks(file, at + 2);
    } else if (kind === IMAGE) {
      announced = false;
      at = skipSubBlocks(file, skipColors(file, at + 10, at + 9) + 1);
    } else return;
  }
  if (announced || at > file.length) throw cut();
}

/** Behind the colour table that begins at `at`, if the flags say that there is one. */
function skipColors(file: Buffer, at: number, flags: number): number {
  const bits = file[flags];
  if (bits === undefined) throw cut();
  return bits & 0x80 ? at + 3 * 2 ** ((bits & 7) + 1) : at;
}

function skipSubBlocks(file: Buffer, from: number): number {
  for (let at = from; ; ) {
    const length = file[at];
    if (length === undefined) throw cut();
    at += 1 + length;
    if (length === 0) return at;
  }
}

const cut = () => new Error('it is cut short');
