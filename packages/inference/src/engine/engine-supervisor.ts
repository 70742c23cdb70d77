import { OctomilError } from '@octomil/shared/errors';
import type { Clock, EntryPoint, Logger } from '@octomil/shared/runtime';
import type { EngineHealth } from './engine.js';
import { EngineChild } from './engine-child.js';
import type { FromEngine, LoadOptions } from './engine-messages.js';
import { beatMs, memoryFault, watchEngine } from './engine-watch.js';

export interface SupervisorOptions {
  readonly load: Omit<LoadOptions, 'aliveEveryMs'>;
  readonly entry: EntryPoint;
  readonly loadTimeoutMs: number;
  /** A process that says nothing for longer hangs, and is started anew. */
  readonly silenceLimitMs: number;
  /** Resident memory that it may have; undefined: no limit. */
  readonly maxMemoryBytes: number | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Run before each start, so that what would end the process is found first. @throws OctomilError */
  readonly check: () => Promise<void>;
}

const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 60_000;
/** A process that lived this long begins with the first delay again. */
const STEADY_MS = 60_000;

/**
 * Keeps the process of a model running. When it dies, or cannot load the model, it is started anew after 0.5 s, 1 s … 60 s;
 * until then whoever asks for it hears why, and when to come back.
 */
export class EngineSupervisor {
  readonly #options: SupervisorOptions;
  #child: EngineChild | undefined;
  /** Settles with the start that is under way, or that was the last. */
  #loaded: Promise<EngineChild>;
  #state: EngineHealth['state'] = 'loading';
  #failure: OctomilError | undefined;
  /** Why the process had to be ended, until it has. */
  #fault: OctomilError | undefined;
  #failures = 0;
  #starts = 0;
  #retryAtMs = 0;
  #readyAtMs = 0;
  #callOffRestart: () => void = () => undefined;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#loaded = this.#start();
  }

  get health(): EngineHealth {
    return {
      state: this.#state,
      rssBytes: this.#child?.rssBytes,
      restarts: Math.max(0, this.#starts - 1),
      reason: this.#failure?.reason,
    };
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /**
   * The process with the model in memory; waits while it is being loaded.
   *
   * @throws OctomilError why there is none, with `retryAfterSeconds`; the signal's reason
   */
  child(signal?: AbortSignal): Promise<EngineChild> {
    if (this.#state === 'failed' || this.#state === 'stopped') return Promise.reject(this.#refusal());
    if (signal === undefined || this.#state === 'ready') return this.#loaded;
    return new Promise((resolve, reject) => {
      const onAbort = (): void => reject(signal.reason);
      if (signal.aborted) onAbort();
      signal.addEventListener('abort', onAbort, { once: true });
      this.#loaded.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
    });
  }

  async stop(): Promise<void> {
    this.#state = 'stopped';
    this.#failure = new OctomilError('runtime_unavailable', 'the engine was stopped');
    this.#callOffRestart();
    await this.#child?.kill();
  }

  #start(): Promise<EngineChild> {
    this.#starts += 1;
    this.#state = 'loading';
    const loaded = this.#load();
    // Whoever asks is told; nobody may be asking.
    loaded.catch(() => undefined);
    return loaded;
  }

  async #load(): Promise<EngineChild> {
    const { entry, load, clock, loadTimeoutMs, silenceLimitMs, maxMemoryBytes, logger, check } = this.#options;
    let child: EngineChild | undefined;
    let isLoaded = false;
    this.#fault = undefined;
    try {
      await check();
      const outcome = Promise.withResolvers<void>();
      const onMessage = (message: FromEngine): void => {
        if (message.type === 'loaded') {
          const fault = memoryFault(message, maxMemoryBytes);
          if (fault === undefined) outcome.resolve();
          else outcome.reject(fault);
        }
        if (message.type === 'load_failed') outcome.reject(OctomilError.fromBody(message.error));
      };
      this.#requireRunning();
      child = new EngineChild(entry, onMessage, () => clock.now());
      const started = child;
      this.#child = started;
      const callOff = clock.after(loadTimeoutMs, () =>
        outcome.reject(
          new OctomilError('model_load_failed', `the model was not loaded within ${loadTimeoutMs} ms, the limit`),
        ),
      );
      const endWatch = watchEngine(started, () => isLoaded, {
        clock,
        silenceLimitMs,
        maxMemoryBytes,
        onFault: (fault) => {
          outcome.reject(fault);
          this.#fault = fault;
          void started.kill(fault.reason);
        },
      });
      void started.ended.then((how) => {
        endWatch();
        outcome.reject(diedLoading(how, started.lastLine));
        this.#onEnd(started, how);
      });
      started.send({ type: 'load', options: { ...load, aliveEveryMs: beatMs(silenceLimitMs) } });
      await outcome.promise.finally(callOff);
      this.#requireRunning();
      isLoaded = true;
      this.#state = 'ready';
      this.#failure = undefined;
      this.#readyAtMs = clock.now();
      logger.info({ pid: started.pid, rssBytes: started.rssBytes }, 'model loaded');
      return started;
    } catch (error) {
      const failure = error instanceof OctomilError ? error : diedLoading('it failed', String(error));
      // The reason comes from loading, not from the end that follows it.
      this.#fail(failure);
      await child?.kill();
      throw this.#refusal();
    }
  }

  #onEnd(child: EngineChild, how: string): void {
    if (this.#child !== child) return;
    this.#child = undefined;
    if (this.#state !== 'ready') return;
    const { clock, logger } = this.#options;
    if (clock.now() - this.#readyAtMs > STEADY_MS) this.#failures = 0;
    logger.warn({ how, lastLine: child.lastLine }, 'the engine process ended; it will be started anew');
    const fault = this.#fault;
    this.#fault = undefined;
    this.#fail(fault ?? new OctomilError('model_load_failed', `the engine process is being started anew: ${how}`));
  }

  #fail(failure: OctomilError): void {
    if (this.#state === 'stopped') return;
    const { clock, logger } = this.#options;
    this.#state = 'failed';
    this.#failure = failure;
    const delayMs = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.#failures);
    this.#failures += 1;
    this.#retryAtMs = clock.now() + delayMs;
    logger.warn({ reason: failure.reason, delayMs }, 'the engine cannot be used; it will be tried again');
    this.#callOffRestart = clock.after(delayMs, () => {
      this.#loaded = this.#start();
    });
  }

  #refusal(): OctomilError {
    const { code, reason, details } = this.#failure ?? diedLoading('it ended', '');
    const leftSeconds = Math.max(1, Math.ceil((this.#retryAtMs - this.#options.clock.now()) / 1_000));
    return new OctomilError(code, reason, {
      ...(details === undefined ? {} : { details }),
      ...(this.#state === 'stopped' ? {} : { retryAfterSeconds: leftSeconds }),
    });
  }

  #requireRunning(): void {
    if (this.#state === 'stopped') throw this.#refusal();
  }
}

function diedLoading(how: string, lastLine: string): OctomilError {
  const said = lastLine === '' ? '' : ` (${lastLine})`;
  return new OctomilError('model_load_failed', `the engine process did not survive loading the model: ${how}${said}`);
}
