import type { LlamaSequence, Token } from './llama-library.js';

export interface Lease {
  readonly sequence: LlamaSequence;
  /** Gives the sequence to the next; what it has read stays, for a prompt that begins alike. */
  release(): void;
}

/** The sequences of a context. Each keeps what it read last, and goes to a prompt that begins with most of it. */
export class SequencePool {
  /** The one that was used longest ago first. */
  readonly #free: LlamaSequence[];
  /** In the order of their arrival. */
  readonly #waiting = new Map<(lease: Lease) => void, readonly Token[]>();

  constructor(sequences: readonly LlamaSequence[]) {
    this.#free = [...sequences];
  }

  /** In the order of arrival. @throws the signal's reason */
  take(prompt: readonly Token[], signal: AbortSignal): Promise<Lease> {
    if (signal.aborted) return Promise.reject(signal.reason);
    if (this.#free.length > 0) return Promise.resolve(this.#lease(prompt));
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiting.delete(grant);
        reject(signal.reason);
      };
      const grant = (lease: Lease): void => {
        signal.removeEventListener('abort', onAbort);
        resolve(lease);
      };
      signal.addEventListener('abort', onAbort, { once: true });
      this.#waiting.set(grant, prompt);
    });
  }

  #lease(prompt: readonly Token[]): Lease {
    const common = this.#free.map((sequence) => sequence.compareContextTokens(prompt).firstDifferentIndex);
    const best = common.indexOf(Math.max(...common));
    const [sequence] = this.#free.splice(best, 1) as [LlamaSequence];
    let held = true;
    return {
      sequence,
      release: () => {
        if (!held) return;
        held = false;
        this.#free.push(sequence);
        const [next] = this.#waiting;
        if (next === undefined) return;
        const [grant, waited] = next;
        this.#waiting.delete(grant);
        grant(this.#lease(waited));
      },
    };
  }
}
