import type { ObjectStore } from '@octomil/shared/storage';
import { type ParameterLayout, readLayout } from '@octomil/shared/tensors';
import { BoundedMap } from './bounded-map.js';
import type { RoundFacts } from './round-facts.js';

/** Names and shapes of each session's weights, the same in all its rounds, read from a base's header once. */
export class BaseLayouts {
  readonly #objects: ObjectStore;
  readonly #known = new BoundedMap<string, Promise<ParameterLayout | undefined>>(64);

  constructor(objects: ObjectStore) {
    this.#objects = objects;
  }

  /** `undefined` for a round without a base. @throws `not_found`, `corrupt_file` */
  async of({ sessionId, base }: RoundFacts): Promise<ParameterLayout | undefined> {
    if (base === undefined) return undefined;
    const known = this.#known.get(sessionId);
    if (known !== undefined) return known;
    const reading = this.#read(base.objectKey);
    this.#known.set(sessionId, reading);
    reading.catch(() => this.#known.delete(sessionId));
    return reading;
  }

  async #read(objectKey: string): Promise<ParameterLayout> {
    const file = await this.#objects.localFile(objectKey);
    try {
      return await readLayout(file.path);
    } finally {
      await file.release();
    }
  }
}
