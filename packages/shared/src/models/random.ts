/** Seeded random numbers: the same seed and stream give the same numbers on every machine. */
export interface Random {
  /** A whole number from 0 to 2³² − 1. */
  uint32(): number;
  /** From 0 (included) to 1 (excluded), in steps of 2⁻³². */
  uniform(): number;
  /** Standard normal. */
  normal(): number;
  /** A whole number from 0 to `bound` − 1; `bound` up to 2³². */
  below(bound: number): number;
}

/**
 * sfc32, the "small fast counting" generator of Chris Doty-Humphrey's PractRand: 128 bits of state,
 * seeded with three words and a counter of 1, the first 15 numbers thrown away.
 *
 * @param seed whole number from 0 to 2⁵³ − 1
 * @param stream separates uses of one seed, such as `"shuffle"` and `"dropout"`
 */
export function seededRandom(seed: number, stream: string): Random {
  let a = seed >>> 0;
  let b = Math.floor(seed / 0x1_0000_0000) >>> 0;
  let c = fnv1a(stream);
  let counter = 1;
  let spare: number | undefined;

  const uint32 = (): number => {
    const result = (a + b + counter) >>> 0;
    counter = (counter + 1) >>> 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) >>> 0;
    c = (((c << 21) | (c >>> 11)) + result) >>> 0;
    return result;
  };
  const uniform = (): number => uint32() / 0x1_0000_0000;
  // Marsaglia's polar method (1964): two normals from two uniforms inside the unit circle.
  const normal = (): number => {
    if (spare !== undefined) {
      const value = spare;
      spare = undefined;
      return value;
    }
    for (;;) {
      const u = 2 * uniform() - 1;
      const v = 2 * uniform() - 1;
      const s = u * u + v * v;
      if (s > 0 && s < 1) {
        const factor = Math.sqrt((-2 * Math.log(s)) / s);
        spare = v * factor;
        return u * factor;
      }
    }
  };
  // Rejection keeps every number equally likely.
  const below = (bound: number): number => {
    const limit = 0x1_0000_0000 - (0x1_0000_0000 % bound);
    for (;;) {
      const value = uint32();
      if (value < limit) return value % bound;
    }
  };
  for (let round = 0; round < 15; round++) uint32();
  return { uint32, uniform, normal, below };
}

/** Puts `items` in random order, in place (Fisher and Yates, as Knuth's Algorithm P). */
export function shuffle(items: Uint32Array, random: Random): void {
  for (let last = items.length - 1; last > 0; last--) {
    const other = random.below(last + 1);
    const kept = items[last] ?? 0;
    items[last] = items[other] ?? 0;
    items[other] = kept;
  }
}

/** 32-bit FNV-1a over UTF-16 units (Fowler, Noll and Vo). */
function fnv1a(text: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index);
    hash = Math.imul(hash ^ (unit & 0xff), 0x01000193);
    hash = Math.imul(hash ^ (unit >>> 8), 0x01000193);
  }
  return hash >>> 0;
}
