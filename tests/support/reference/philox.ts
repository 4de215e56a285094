// Philox 4x32-10 (Salmon et al., SC 2011) in BigInt arithmetic, from the paper's description.

const MASK = 0xffffffffn;

/** Ten rounds on a counter of four and a key of two 32-bit words. */
export function philox4x32(counter: readonly bigint[], key: readonly bigint[]): number[] {
  let [c0, c1, c2, c3] = counter as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key as [bigint, bigint];
  for (let round = 0; round < 10; round++) {
    const p0 = 0xd2511f53n * c0;
    const p1 = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(p1 >> 32n) ^ c1 ^ k0, p1 & MASK, (p0 >> 32n) ^ c3 ^ k1, p0 & MASK];
    k0 = (k0 + 0x9e3779b9n) & MASK;
    k1 = (k1 + 0xbb67ae85n) & MASK;
  }
  return [c0, c1, c2, c3].map(Number);
}

/** The four words of one draw: key = seed, counter = (counter, stream), low words first. */
export function words(seed: number, stream: number, counter: number): number[] {
  const halves = (value: number) => [BigInt(value) & MASK, BigInt(value) >> 32n];
  return philox4x32([...halves(counter), ...halves(stream)], halves(seed));
}

/** Uniform in [0, 1) with 24 bits. */
export function uniformOf(word: number): number {
  return (word >>> 8) / 2 ** 24;
}

/** Two normal draws from two words (Box-Muller). */
export function normalsOf(a: number, b: number): [number, number] {
  const radius = Math.sqrt(-2 * Math.log((a + 1) / 2 ** 32));
  const angle = (2 * Math.PI * b) / 2 ** 32;
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
}
