import type { GenerationEngine, GenerationEvent, GenerationRequest } from '../../engine/index.js';

/** An engine whose every word waits for `release`: for what happens while others wait. */
export class SlowEngine implements GenerationEngine {
  readonly description;
  readonly asked: GenerationRequest[] = [];
  aborted = 0;
  running = 0;
  /** Thrown by the next generations. */
  failure: Error | undefined;
  #gate = Promise.withResolvers<void>();

  constructor(parallelSequences: number) {
    this.description = { engine: 'slow', contextTokens: 100, parallelSequences, canEmbed: true };
  }

  release(): void {
    this.#gate.resolve();
  }

  /** Ends those that run in the middle of their text. */
  fail(error: Error): void {
    this.#gate.reject(error);
  }

  async *generate(request: GenerationRequest, signal: AbortSignal): AsyncGenerator<GenerationEvent, void, undefined> {
    this.asked.push(request);
    if (this.failure !== undefined) throw this.failure;
    this.running += 1;
    const left = Promise.withResolvers<never>();
    const onAbort = (): void => {
      this.aborted += 1;
      left.reject(signal.reason);
    };
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      yield { type: 'text', text: 'first ' };
      await Promise.race([this.#gate.promise, left.promise]);
      yield { type: 'text', text: 'last' };
      const usage = { promptTokens: 3, completionTokens: 2, cachedTokens: 1, estimated: false };
      yield { type: 'done', finishReason: 'stop', usage };
    } finally {
      signal.removeEventListener('abort', onAbort);
      this.running -= 1;
    }
  }

  async embed(inputs: readonly string[]): ReturnType<GenerationEngine['embed']> {
    return { vectors: inputs.map((_, index) => Float32Array.of(index, 0.1)), promptTokens: inputs.length };
  }

  async stop(): Promise<void> {
    this.release();
  }
}
