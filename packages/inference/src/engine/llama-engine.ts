import { availableParallelism } from 'node:os';
import { OctomilError } from '@octomil/shared/errors';
import {
  type Clock,
  type EntryPoint,
  entryPoint,
  type Logger,
  silentLogger,
  systemClock,
} from '@octomil/shared/runtime';
import { type FormatRule, formatRule, toolRules } from './answer-check.js';
import { checkGguf } from './check-gguf.js';
import type {
  EngineDescription,
  EngineHealth,
  GenerationEngine,
  GenerationEvent,
  GenerationRequest,
  Said,
} from './engine.js';
import type { EngineChild } from './engine-child.js';
import { charactersOf, type FromEngine, type SaidOnWire, WINDOW_CHARACTERS } from './engine-messages.js';
import { EngineSupervisor } from './engine-supervisor.js';

export interface LlamaEngineOptions {
  /** A GGUF file. */
  readonly modelPath: string;
  /** Per sequence. Default: what the model was trained for, 4,096 at most. */
  readonly contextTokens?: number | undefined;
  /** Generations at once; each takes memory for a context. Default 4. */
  readonly parallelSequences?: number | undefined;
  /** Default: one less than there are cores, at least 1. More than are free make it slower by far. */
  readonly threads?: number | undefined;
  /** Uses a graphics card where node-llama-cpp has a build for it. Default false. */
  readonly gpu?: boolean | undefined;
  /** A small model with the same vocabulary that proposes tokens. */
  readonly draftModelPath?: string | undefined;
  /** Default 120,000. */
  readonly loadTimeoutMs?: number | undefined;
  /** A process that says nothing for longer hangs, and is started anew; in milliseconds. Default 30,000. */
  readonly silenceLimitMs?: number | undefined;
  /** Resident memory that the process may have, with the pages of the model file. Default: no limit. */
  readonly maxMemoryBytes?: number | undefined;
  readonly logger?: Logger;
  readonly clock?: Clock;
  /** The program of the process. Default: this package's. */
  readonly entry?: EntryPoint;
}

const DEFAULT_CONTEXT_TOKENS = 4_096;
const DEFAULT_SEQUENCES = 4;

/**
 * llama.cpp in a process of its own, through node-llama-cpp: a file that crashes it takes nothing else with it. The process
 * is started by the constructor and, when it dies, anew; until it is there, requests wait for it or hear why it is not.
 */
export class LlamaEngine implements GenerationEngine {
  readonly #supervisor: EngineSupervisor;
  readonly #options: LlamaEngineOptions;
  #contextTokens: number;
  #lastId = 0;

  constructor(options: LlamaEngineOptions) {
    this.#options = options;
    this.#contextTokens = options.contextTokens ?? DEFAULT_CONTEXT_TOKENS;
    const load = {
      modelPath: options.modelPath,
      draftModelPath: options.draftModelPath,
      contextTokens: this.#contextTokens,
      parallelSequences: options.parallelSequences ?? DEFAULT_SEQUENCES,
      threads: options.threads ?? Math.max(1, availableParallelism() - 1),
      gpu: options.gpu ?? false,
    };
    this.#supervisor = new EngineSupervisor({
      load,
      entry: options.entry ?? entryPoint(import.meta.url, 'llama-child'),
      loadTimeoutMs: options.loadTimeoutMs ?? 120_000,
      silenceLimitMs: options.silenceLimitMs ?? 30_000,
      maxMemoryBytes: options.maxMemoryBytes,
      clock: options.clock ?? systemClock,
      logger: options.logger ?? silentLogger,
      check: async () => {
        const { contextTokens } = await checkGguf(options.modelPath);
        if (options.draftModelPath !== undefined) await checkGguf(options.draftModelPath);
        this.#contextTokens = Math.min(this.#contextTokens, contextTokens);
        load.contextTokens = this.#contextTokens;
      },
    });
  }

  get description(): EngineDescription {
    return {
      engine: 'llama.cpp',
      contextTokens: this.#contextTokens,
      parallelSequences: this.#options.parallelSequences ?? DEFAULT_SEQUENCES,
      canEmbed: true,
      speculative: this.#options.draftModelPath !== undefined,
    };
  }

  health(): EngineHealth {
    return this.#supervisor.health;
  }

  /** Of the engine's process; undefined while there is none. */
  get pid(): number | undefined {
    return this.#supervisor.pid;
  }

  /** Resolves when the model is in memory. @throws OctomilError `model_load_failed`, `runtime_unavailable` */
  async ready(): Promise<void> {
    await this.#supervisor.child();
  }

  async *generate(request: GenerationRequest, signal: AbortSignal): AsyncGenerator<GenerationEvent, void, undefined> {
    const { responseFormat, tools, ...rest } = request;
    const rule = formatRule(responseFormat);
    const rules = toolRules(tools?.functions ?? []);
    const session = await this.#open(signal);
    session.child.send({
      type: 'generate',
      id: session.id,
      request: {
        ...rest,
        grammar: rule?.grammar,
        ...(tools === undefined ? {} : { tools: { ...tools, functions: rules.functions } }),
      },
    });
    let whole = '';
    /** Of the call that is being written. */
    let call: { readonly rule: FormatRule | undefined; text: string } | undefined;
    try {
      for (;;) {
        const message = await session.next();
        if (message.type === 'text') {
          for (const [, chunk] of message.chunks) {
            const said: Said = typeof chunk === 'string' ? { type: 'text', text: chunk } : chunk;
            if (said.type === 'text' && rule !== undefined) whole += said.text;
            if (said.type === 'call') {
              call?.rule?.check(call.text);
              call = { rule: rules.checks.get(said.name), text: '' };
            } else if (said.type === 'arguments' && call !== undefined) call.text += said.text;
            yield said;
            session.take(charactersOf(chunk));
          }
        } else if (message.type === 'done') {
          const { finishReason } = message.completion;
          if (finishReason === 'stop') rule?.check(whole);
          if (finishReason === 'tool_calls') call?.rule?.check(call.text);
          yield { type: 'done', ...message.completion };
          return;
        }
      }
    } finally {
      session.close();
    }
  }

  async embed(
    inputs: readonly string[],
    signal: AbortSignal,
  ): Promise<{ readonly vectors: readonly Float32Array[]; readonly promptTokens: number }> {
    const session = await this.#open(signal);
    session.child.send({ type: 'embed', id: session.id, inputs });
    try {
      for (;;) {
        const message = await session.next();
        if (message.type === 'embedded') return message;
      }
    } finally {
      session.close();
    }
  }

  /** Ends the process, and with it what runs. Safe to repeat. */
  stop(): Promise<void> {
    return this.#supervisor.stop();
  }

  async #open(signal: AbortSignal): Promise<Session> {
    if (signal.aborted) throw cancelledBy(signal);
    const child = await this.#supervisor.child(signal).catch((error: unknown) => {
      throw signal.aborted ? cancelledBy(signal) : error;
    });
    this.#lastId += 1;
    return new Session(this.#lastId, child, signal);
  }
}

/**
 * Starts an engine and waits for its model.
 *
 * @throws OctomilError `model_load_failed` for a file that cannot be loaded, `runtime_unavailable` without node-llama-cpp
 */
export async function openLlamaEngine(options: LlamaEngineOptions): Promise<LlamaEngine> {
  const engine = new LlamaEngine(options);
  try {
    await engine.ready();
    return engine;
  } catch (error) {
    await engine.stop();
    throw error;
  }
}

/** The parent's side of one generation or embedding. */
class Session {
  readonly id: number;
  readonly child: EngineChild;
  readonly #signal: AbortSignal;
  readonly #onAbort: () => void;
  #said: SaidOnWire[] = [];
  #end: FromEngine | undefined;
  #failure: OctomilError | undefined;
  /** The engine has nothing more to do for it. */
  #over = false;
  #taken = 0;
  #wake: () => void = () => undefined;

  constructor(id: number, child: EngineChild, signal: AbortSignal) {
    this.id = id;
    this.child = child;
    this.#signal = signal;
    this.#onAbort = () => this.#fail(cancelledBy(signal));
    signal.addEventListener('abort', this.#onAbort, { once: true });
    child.listen(id, {
      receive: (message) => this.#receive(message),
      end: (how) =>
        this.#fail(
          new OctomilError('inference_failed', `the engine process died during the request: ${how}`, {
            retryAfterSeconds: 1,
          }),
        ),
    });
  }

  /** The text that came since, whole, or how it ended. */
  async next(): Promise<FromEngine> {
    while (this.#said.length === 0 && this.#end === undefined && this.#failure === undefined) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    // A request that was cancelled ends at once, whatever had come.
    if (this.#signal.aborted && this.#failure !== undefined) throw this.#failure;
    if (this.#said.length > 0) {
      const chunks = this.#said.map((said) => [this.id, said] as const);
      this.#said = [];
      return { type: 'text', chunks };
    }
    if (this.#end !== undefined) return this.#end;
    throw this.#failure ?? new OctomilError('internal', 'a generation ended without an end');
  }

  /** Says now and then how much was read, so that the engine goes on. */
  take(characters: number): void {
    this.#taken += characters;
    if (this.#taken < WINDOW_CHARACTERS / 2) return;
    this.child.send({ type: 'credit', id: this.id, characters: this.#taken });
    this.#taken = 0;
  }

  close(): void {
    this.#signal.removeEventListener('abort', this.#onAbort);
    this.child.forget(this.id);
    if (!this.#over) this.child.send({ type: 'cancel', id: this.id });
  }

  #receive(message: FromEngine): void {
    if (message.type === 'text') for (const [, said] of message.chunks) this.#hear(said);
    else this.#over = true;
    if (message.type === 'error') this.#fail(OctomilError.fromBody(message.error));
    else if (this.#over) this.#end = message;
    this.#wake();
  }

  /** What belongs together is passed on in one piece. */
  #hear(said: SaidOnWire): void {
    const last = this.#said.at(-1);
    if (typeof said === 'string' && typeof last === 'string') this.#said[this.#said.length - 1] = last + said;
    else if (typeof said === 'object' && typeof last === 'object' && said.type === 'arguments') {
      if (last.type === 'arguments') this.#said[this.#said.length - 1] = { ...last, text: last.text + said.text };
      else this.#said.push(said);
    } else this.#said.push(said);
  }

  #fail(failure: OctomilError): void {
    if (this.#failure !== undefined) return;
    this.#failure = failure;
    this.#wake();
  }
}

function cancelledBy(signal: AbortSignal): OctomilError {
  const reason: unknown = signal.reason;
  return reason instanceof OctomilError
    ? reason
    : new OctomilError('cancelled', 'the request was cancelled', { cause: reason });
}
