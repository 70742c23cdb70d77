import type { GenerationQuery } from './request.js';
import type { GenerationPiece } from './text-source.js';

/** A model in memory. */
export interface LoadedSource {
  pieces(query: GenerationQuery, signal: AbortSignal): AsyncIterable<GenerationPiece>;
  stop(): Promise<void>;
}

export interface Lease {
  readonly source: LoadedSource;
  release(): void;
}

interface Entry {
  readonly loaded: Promise<LoadedSource>;
  readonly sizeBytes: number;
  /** Generations under way; a model is unloaded only when there are none. */
  users: number;
  dropped: boolean;
}

/** Models kept in memory by name. Beyond `limitBytes` those go that were not used for longest, except the one asked for. */
export class ModelCache {
  limitBytes: number;
  /** Least recently used first. */
  readonly #entries = new Map<string, Entry>();

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  get names(): readonly string[] {
    return [...this.#entries.keys()];
  }

  /** @throws what `load` throws; the failure is not remembered */
  async lease(name: string, sizeBytes: number, load: () => Promise<LoadedSource>): Promise<Lease> {
    let entry = this.#entries.get(name);
    if (entry === undefined) {
      // First the room, then the model: the two together may be more than there is.
      const room = this.#makeRoom(sizeBytes, name);
      entry = { loaded: room.then(load), sizeBytes, users: 0, dropped: false };
    }
    this.#entries.delete(name);
    this.#entries.set(name, entry);
    entry.users += 1;
    const held = entry;
    try {
      const source = await held.loaded;
      let released = false;
      const release = (): void => {
        if (released) return;
        released = true;
        this.#leave(held, name);
      };
      return { source, release };
    } catch (thrown) {
      held.users -= 1;
      if (this.#entries.get(name) === held) this.#entries.delete(name);
      throw thrown;
    }
  }

  /** Unloads a model, or as soon as nothing is generated with it. */
  async drop(name: string): Promise<void> {
    const entry = this.#entries.get(name);
    if (entry === undefined) return;
    this.#entries.delete(name);
    entry.dropped = true;
    if (entry.users === 0) await unload(entry);
  }

  /** Unloads everything at once; generations under way fail with `cancelled`. */
  async dispose(): Promise<void> {
    const entries = [...this.#entries.values()];
    this.#entries.clear();
    await Promise.all(entries.map(unload));
  }

  #leave(entry: Entry, name: string): void {
    entry.users -= 1;
    if (entry.users > 0) return;
    void (entry.dropped ? unload(entry) : this.#makeRoom(0, name));
  }

  async #makeRoom(neededBytes: number, except: string): Promise<void> {
    let usedBytes = [...this.#entries.values()].reduce((sum, { sizeBytes }) => sum + sizeBytes, neededBytes);
    const leaving: Entry[] = [];
    for (const [name, entry] of this.#entries) {
      if (usedBytes <= this.limitBytes) break;
      if (name === except || entry.users > 0) continue;
      this.#entries.delete(name);
      usedBytes -= entry.sizeBytes;
      leaving.push(entry);
    }
    await Promise.all(leaving.map(unload));
  }
}

/** A model that never loaded needs no unloading. */
async function unload({ loaded }: Entry): Promise<void> {
  await loaded.then((source) => source.stop()).catch(() => undefined);
}
