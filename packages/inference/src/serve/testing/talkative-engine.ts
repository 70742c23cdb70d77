import type { GenerationEngine, GenerationEvent, GenerationRequest } from '../../engine/index.js';

const PIECE = 'word '.repeat(20_000);
/** A pause this long is the reader's doing. */
const HELD_BACK_MS = 250;

/** An engine that says what it had ready before it looks at its signal, as one does that was told many words at once. */
export class TalkativeEngine implements GenerationEngine {
  readonly description = { engine: 'talkative', contextTokens: 100, parallelSequences: 1, canEmbed: false };
  ended = 0;
  #saidAtMs: number | undefined;

  /** Whether it waits for its reader. */
  get isHeldBack(): boolean {
    return this.#saidAtMs !== undefined && performance.now() - this.#saidAtMs > HELD_BACK_MS;
  }

  async *generate(_request: GenerationRequest, signal: AbortSignal): AsyncGenerator<GenerationEvent, void, undefined> {
    try {
      for (let ready = 10; ready > 0; ready -= signal.aborted ? 1 : 0) {
        this.#saidAtMs = performance.now();
        yield { type: 'text', text: PIECE };
      }
      throw signal.reason;
    } finally {
      this.ended += 1;
    }
  }

  async embed(): Promise<never> {
    throw new Error('it has no vectors');
  }

  async stop(): Promise<void> {}
}
