import { OctomilError } from '@octomil/shared/errors';
import { type Initializer, parseInitializer } from './initializers.js';

export type JsonObject = Readonly<Record<string, unknown>>;
/** Without the batch dimension. */
export type Shape = readonly number[];

export interface WeightPlan {
  readonly name: string;
  readonly shape: Shape;
  readonly initializer: Initializer;
}

export interface LayerPlan {
  /** Of one row. */
  readonly output: Shape;
  /** In the order of the tfjs layer's own `getWeights()`. */
  readonly weights: readonly WeightPlan[];
}

/** Says what a layer gives and holds, from its settings and the shapes that come in. */
export type LayerRule = (layer: LayerConfig, inputs: readonly Shape[]) => LayerPlan;

const MAX_SETTING = 2 ** 31 - 1;

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Typed access to one layer's settings; every failure names the layer and the setting. */
export class LayerConfig {
  readonly name: string;
  readonly className: string;
  readonly settings: JsonObject;

  constructor(name: string, className: string, settings: JsonObject) {
    this.name = name;
    this.className = className;
    this.settings = settings;
  }

  refuse(reason: string): OctomilError {
    return new OctomilError('invalid_input', `layer "${this.name}" (${this.className}): ${reason}`);
  }

  /** A whole number of at least `minimum`. */
  integer(key: string, fallback?: number, minimum = 1): number {
    return this.#asInteger(key, this.settings[key] ?? fallback, minimum);
  }

  /** `count` whole numbers of at least `minimum`; a single number stands for all of them. */
  integers(key: string, count: number, fallback?: number | readonly number[], minimum = 1): number[] {
    const value = this.settings[key] ?? fallback;
    const list = Array.isArray(value) ? value : new Array<unknown>(count).fill(value);
    if (list.length !== count) throw this.refuse(`${key} must be ${count} numbers, not ${JSON.stringify(value)}`);
    return list.map((item) => this.#asInteger(key, item, minimum));
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.settings[key] ?? fallback;
    if (typeof value !== 'boolean') throw this.refuse(`${key} must be true or false, not ${JSON.stringify(value)}`);
    return value;
  }

  choice<const T extends string>(key: string, options: readonly T[], fallback: T): T {
    const value = this.settings[key] ?? fallback;
    const found = options.find((option) => option === value);
    if (found === undefined) {
      throw this.refuse(`${key} must be one of ${options.join(', ')}, not ${JSON.stringify(value)}`);
    }
    return found;
  }

  weight(name: string, shape: Shape, initializer: Initializer): WeightPlan {
    return { name: `${this.name}/${name}`, shape, initializer };
  }

  /** The initialiser that the settings name under `key`, or the fallback. */
  initializer(key: string, fallback: Initializer): Initializer {
    const value = this.settings[key];
    return value === undefined || value === null
      ? fallback
      : parseInitializer(value, (reason) => this.refuse(`${key}: ${reason}`));
  }

  /** The one shape that comes in, of a rank that the layer takes. */
  only(inputs: readonly Shape[], ...ranks: number[]): Shape {
    const [shape, ...more] = inputs;
    if (shape === undefined || more.length > 0) throw this.refuse(`takes one input, not ${inputs.length}`);
    if (ranks.length > 0 && !ranks.includes(shape.length)) {
      throw this.refuse(`takes rows of rank ${ranks.join(' or ')}, not of shape [${shape.join(', ')}]`);
    }
    return shape;
  }

  #asInteger(key: string, value: unknown, minimum: number): number {
    if (typeof value !== 'number' || !Number.isInteger(value) || value < minimum || value > MAX_SETTING) {
      throw this.refuse(
        `${key} must be a whole number from ${minimum} to ${MAX_SETTING}, not ${JSON.stringify(value) ?? 'missing'}`,
      );
    }
    return value;
  }
}

export function product(shape: Shape): number {
  return shape.reduce((total, size) => total * size, 1);
}
