import { OctomilError } from '@octomil/shared/errors';
import {
  type Clock,
  type EntryPoint,
  entryPoint,
  type Logger,
  silentLogger,
  systemClock,
} from '@octomil/shared/runtime';
import { cancelledBy } from './cancellation.js';
import { removeLeftRuns } from './own-code/left-runs.js';
import { watchMemory } from './resident-memory.js';
import type { TrainerResult, TrainerTask } from './task.js';
import { TaskQueue } from './task-queue.js';
import type { RunOptions, Trainer, TrainerResources } from './trainer.js';
import { TrainerChild } from './trainer-child.js';

export interface TrainerSupervisorOptions extends TrainerResources {
  /** The process is ended after this long without a task. Default 5 minutes. */
  readonly idleMs?: number;
  /** A cancelled task, or a process that is to end, is killed after this long. Default 5 s. */
  readonly graceMs?: number;
  readonly clock?: Clock;
  readonly logger?: Logger;
  /** The program of the process. Default: this package's trainer. */
  readonly entry?: EntryPoint;
}

const MIB = 1_048_576;

/** V8 collects what is not used sooner under a limit. Most of what training takes is outside of its heap. */
function withHeapLimit(entry: EntryPoint, memoryLimitBytes: number | undefined): EntryPoint {
  if (memoryLimitBytes === undefined) return entry;
  return { ...entry, execArgv: [...entry.execArgv, `--max-old-space-size=${Math.ceil(memoryLimitBytes / MIB / 2)}`] };
}

/**
 * Trains in a process of its own, started with the first task, kept warm between tasks and ended when idle: a crash, or what
 * tfjs and DuckDB allocate, never touches the agent. Beyond its memory limit it is ended, and the task has failed. The process ends by itself when the agent's process does.
 */
export class TrainerSupervisor implements Trainer {
  readonly #queue = new TaskQueue();
  readonly #idleMs: number;
  readonly #graceMs: number;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #entry: EntryPoint;
  readonly #resources: TrainerResources;
  #child: TrainerChild | undefined;
  #ending: Promise<void> = Promise.resolve();
  #callOffIdleEnd: () => void = () => undefined;
  #stopping = new AbortController();
  #lastId = 0;

  constructor(options: TrainerSupervisorOptions = {}) {
    this.#idleMs = options.idleMs ?? 5 * 60_000;
    this.#graceMs = options.graceMs ?? 5_000;
    this.#clock = options.clock ?? systemClock;
    this.#logger = options.logger ?? silentLogger;
    const { memoryLimitBytes, temporaryFolder } = options;
    this.#resources = {
      ...(memoryLimitBytes === undefined ? {} : { memoryLimitBytes }),
      ...(temporaryFolder === undefined ? {} : { temporaryFolder }),
    };
    this.#entry = withHeapLimit(options.entry ?? entryPoint(import.meta.url, 'trainer-process'), memoryLimitBytes);
  }

  /** Of the trainer process; undefined while there is none. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  run<T extends TrainerTask>(task: T, options: RunOptions = {}): Promise<TrainerResult<T>> {
    return this.#queue.add(() => this.#run(task, options), options.signal);
  }

  /** Cancels what runs and what waits, and ends the process; resolves when it is gone. */
  async stop(): Promise<void> {
    this.#queue.stop();
    this.#stopping.abort();
    await this.#queue.idle();
    this.#endChild();
    await this.#ending;
  }

  async #run<T extends TrainerTask>(task: T, { signal, onProgress }: RunOptions): Promise<TrainerResult<T>> {
    this.#callOffIdleEnd();
    // Two trainers at once would double the memory that a site gives.
    await this.#ending;
    const child = this.#startedChild();
    const id = ++this.#lastId;
    const stops = AbortSignal.any([this.#stopping.signal, ...(signal === undefined ? [] : [signal])]);
    const { promise, resolve, reject } = Promise.withResolvers<TrainerResult<T>>();
    let tooMuch: OctomilError | undefined;
    child.begin({
      onMessage: (message) => {
        if (message.id !== id) return;
        if (message.type === 'progress') onProgress?.(message.progress);
        else if (message.type === 'result') resolve(message.result as TrainerResult<T>);
        else reject(OctomilError.fromBody(message.error));
      },
      onEnd: () =>
        reject(tooMuch ?? (stops.aborted ? cancelledBy(stops) : child.failure(this.#resources.memoryLimitBytes))),
    });
    let callOffKill = (): void => undefined;
    const onAbort = (): void => {
      child.send({ type: 'cancel', id });
      callOffKill = child.killLater();
    };
    const callOffWatch = this.#watchMemory(child, (error) => {
      tooMuch = error;
      child.kill();
    });
    child.send({ type: 'run', id, task, resources: this.#resources });
    stops.addEventListener('abort', onAbort, { once: true });
    if (stops.aborted) onAbort();
    try {
      return await promise;
    } finally {
      child.finish();
      callOffWatch();
      callOffKill();
      stops.removeEventListener('abort', onAbort);
      // A killed process could not end and remove what the site's own code had begun.
      if (!child.usable && task.kind === 'train' && task.trainer === 'own') {
        await removeLeftRuns(task.workPath).catch((error: unknown) =>
          this.#logger.warn({ error, path: task.workPath }, "a run of the site's own code could not be removed"),
        );
      }
      this.#callOffIdleEnd = this.#clock.after(this.#idleMs, () => this.#endChild());
    }
  }

  #startedChild(): TrainerChild {
    if (this.#child?.usable) return this.#child;
    const child = new TrainerChild(this.#entry, this.#clock, this.#graceMs);
    this.#child = child;
    void child.ended.then(() => {
      if (this.#child === child) this.#child = undefined;
    });
    this.#logger.debug({ pid: child.pid }, 'trainer process started');
    return child;
  }

  #watchMemory(child: TrainerChild, onExcess: (error: OctomilError) => void): () => void {
    const { memoryLimitBytes } = this.#resources;
    if (memoryLimitBytes === undefined || child.pid === undefined) return () => undefined;
    return watchMemory(child.pid, memoryLimitBytes, this.#clock, (usedBytes) => {
      const [used, limit] = [usedBytes, memoryLimitBytes].map((bytes) => Math.round(bytes / MIB));
      const reason = `the trainer process took ${used} MiB of memory, more than its limit of ${limit} MiB, and was ended; allow more, or use a smaller model or batch`;
      onExcess(
        new OctomilError('insufficient_memory', reason, { details: { usedBytes, limitBytes: memoryLimitBytes } }),
      );
    });
  }

  #endChild(): void {
    this.#callOffIdleEnd();
    const child = this.#child;
    if (child === undefined) return;
    this.#child = undefined;
    this.#logger.debug({ pid: child.pid }, 'trainer process is being ended');
    this.#ending = child.end();
  }
}
