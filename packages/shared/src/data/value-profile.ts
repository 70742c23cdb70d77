import { foldCell, type MissingMarker, splitMarkers } from './cells.js';
import type { ColumnProfile, TableColumn } from './table-reader.js';
import { type CellValue, isMissingValue, numberOfCell, textOfValue } from './value-cells.js';

/** Hashes kept to estimate distinct values: off by about 2 %. */
const SKETCH_SIZE = 4_096;

/** Counts and moments of one column's values, given one by one. */
export class ValueProfile {
  readonly #column: TableColumn;
  readonly #maxLevels: number;
  readonly #missingTexts: ReadonlySet<string>;
  readonly #numbers: ReadonlySet<number>;
  readonly #texts: ReadonlySet<string>;
  readonly #all = new Moments();
  readonly #nonZero = new Moments();
  readonly #distinct = new DistinctSketch();
  /** Spellings and their counts; undefined where there are too many. */
  #levels: Map<string, number> | undefined = new Map();
  #present = 0;
  #hasCodes = false;
  #whole = true;
  #zeros = 0;
  #least = Number.POSITIVE_INFINITY;
  #most = Number.NEGATIVE_INFINITY;

  constructor(
    column: TableColumn,
    maxLevels: number,
    markers: readonly MissingMarker[],
    missingTexts: ReadonlySet<string>,
  ) {
    const { numbers, texts } = splitMarkers(markers);
    this.#column = column;
    this.#maxLevels = maxLevels;
    this.#missingTexts = missingTexts;
    this.#numbers = new Set(numbers);
    this.#texts = new Set(texts);
    if (column.family === 'time' || column.family === 'unsupported') this.#levels = undefined;
  }

  add(value: CellValue): void {
    if (value === null || value === undefined) return;
    const { family } = this.#column;
    const text = textOfValue(value);
    const countable = family === 'number' || family === 'boolean' || family === 'text';
    const number = family === 'text' ? numberOfCell(text) : countable ? Number(value) : undefined;
    if (number !== undefined) {
      if (Number.isNaN(number) || this.#numbers.has(number)) return;
    } else if (countable && (isMissingValue(text, this.#missingTexts) || this.#texts.has(foldCell(text)))) return;
    this.#present++;
    this.#distinct.add(text);
    if (family === 'text') this.#hasCodes ||= /^[ \t]*0[0-9]/.test(text);
    if (this.#levels !== undefined) {
      this.#levels.set(text, (this.#levels.get(text) ?? 0) + 1);
      // Spellings of one level are put together at the end.
      if (this.#levels.size > this.#maxLevels * 4) this.#levels = undefined;
    }
    if (number === undefined || Math.abs(number) > 1e100) return;
    this.#all.add(number);
    this.#whole &&= Number.isInteger(number);
    this.#least = Math.min(this.#least, number);
    this.#most = Math.max(this.#most, number);
    if (number === 0) this.#zeros++;
    else this.#nonZero.add(number);
  }

  take(): ColumnProfile {
    const present = this.#present;
    const numbers = this.#all.count;
    const numeric = present > 0 && numbers === present && !this.#hasCodes;
    const distinctEstimate = this.#distinct.estimate;
    const span = numbers === 0 ? 0 : this.#most - this.#least;
    const whole = numbers > 0 && this.#whole;
    const levels = present === 0 ? [] : this.#takeLevels(numeric);
    return {
      ...this.#column,
      present,
      numbers,
      hasCodes: this.#hasCodes,
      whole,
      distinctEstimate,
      sequential: numeric && whole && distinctEstimate > present * 0.8 && span + 1 >= present && span < present * 1.1,
      mean: numeric ? this.#all.mean : 0,
      deviation: numeric ? this.#all.deviation : 0,
      zeros: numeric ? this.#zeros : 0,
      nonZeroMean: numeric ? this.#nonZero.mean : 0,
      nonZeroDeviation: numeric ? this.#nonZero.deviation : 0,
      levels: levels === null || levels.length > this.#maxLevels ? null : levels,
    };
  }

  #takeLevels(numeric: boolean): { value: string; count: number }[] | null {
    if (this.#levels === undefined) return null;
    const counts = new Map<string, number>();
    for (const [text, count] of this.#levels) {
      // Adding 0 turns -0 into 0. A boolean that counts as a number is 1 or 0.
      const number = text === 'true' ? 1 : text === 'false' ? 0 : Number(numberOfCell(text));
      const level = numeric ? String(number + 0) : foldCell(text);
      counts.set(level, (counts.get(level) ?? 0) + count);
    }
    return [...counts].map(([value, count]) => ({ value, count }));
  }
}

/** Mean and population standard deviation in one pass (Welford 1962). */
class Moments {
  count = 0;
  mean = 0;
  #squares = 0;

  add(value: number): void {
    this.count++;
    const before = value - this.mean;
    this.mean += before / this.count;
    this.#squares += before * (value - this.mean);
  }

  get deviation(): number {
    return this.count === 0 ? 0 : Math.sqrt(this.#squares / this.count);
  }
}

/** Distinct texts by adaptive sampling (Flajolet 1990): hashes below a bound that halves whenever too many are kept. */
class DistinctSketch {
  #kept = new Set<number>();
  #bound = 2 ** 32;

  add(text: string): void {
    const hash = hashOf(text);
    if (hash >= this.#bound) return;
    this.#kept.add(hash);
    while (this.#kept.size > SKETCH_SIZE) {
      this.#bound /= 2;
      this.#kept = new Set([...this.#kept].filter((one) => one < this.#bound));
    }
  }

  get estimate(): number {
    return Math.round((this.#kept.size * 2 ** 32) / this.#bound);
  }
}

/** FNV-1a over UTF-16 units, then MurmurHash3's finalizer, so that every bit depends on all of the text. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
