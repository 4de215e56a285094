// The generator of random numbers: published words, permutations, distributions.

import { describe, expect, it } from 'vitest';
import { philox4x32, Random, shuffledOrder } from '../src/data/random.js';

describe('the generator of random numbers', () => {
  it('gives the published words of Philox 4x32-10', () => {
    const hex = (words: number[]) => words.map((word) => word.toString(16).padStart(8, '0')).join(' ');
    expect(hex(philox4x32([0, 0, 0, 0], [0, 0]))).toBe('6627e8d5 e169c58d bc57ac4c 9b00dbd8');
    const ones = 0xffffffff;
    expect(hex(philox4x32([ones, ones, ones, ones], [ones, ones]))).toBe(
      '408f276d 41c83b0e a20bc7c6 6d5451fd',
    );
    const pi = philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]);
    expect(hex(pi)).toBe('d16cfe09 94fdcceb 5001e420 24126ea1');
  });

  it('makes permutations that depend on seed and stream alone', () => {
    const order = shuffledOrder(1000, 7, 3);
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
    expect(shuffledOrder(1000, 7, 3)).toEqual(order);
    expect(shuffledOrder(1000, 7, 4)).not.toEqual(order);
    expect(shuffledOrder(1000, 8, 3)).not.toEqual(order);
    const atFirst = new Array<number>(4).fill(0);
    for (let stream = 0; stream < 4000; stream++) atFirst[shuffledOrder(4, 1, stream)[0]!]!++;
    for (const count of atFirst) expect(Math.abs(count - 1000)).toBeLessThan(120);
  });

  it('draws below, between and by weight', () => {
    const random = new Random(1, 2 ** 40);
    const counts = [0, 0, 0];
    for (let i = 0; i < 3000; i++) counts[random.weighted([1, 0, 2])]!++;
    expect(counts[1]).toBe(0);
    expect(Math.abs(counts[0]! - 1000)).toBeLessThan(120);
    for (let i = 0; i < 100; i++) expect(random.between(-1, 1)).toBeLessThan(1);
    expect(() => new Random(-1)).toThrow(/integer of at least 0 for seed but received -1/);
    expect(() => random.below(0)).toThrow(/received 0/);
  });
});
