import { Worker } from 'node:worker_threads';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock, EntryPoint } from '@octomil/shared/runtime';
import type { WorkerReply, WorkerRequest, WorkerTask } from './worker-messages.js';

interface QueuedTask {
  readonly id: number;
  readonly task: WorkerTask;
  readonly signal: AbortSignal | undefined;
  readonly resolve: (result: never) => void;
  readonly reject: (error: unknown) => void;
  readonly onAbort: () => void;
}

export interface WorkerLaneOptions {
  readonly clock: Clock;
  /** The worker ends after so long without a task. */
  readonly idleMs: number;
  readonly entry: EntryPoint;
  /** Heap of the worker. Vectors lie outside of it, in WebAssembly memory. */
  readonly maxHeapMiB: number;
}

/**
 * One worker thread that runs one task at a time, in order: started by the first task, ended when idle, and started again
 * after a crash, which costs the running task alone.
 */
export class WorkerLane {
  readonly #options: WorkerLaneOptions;
  readonly #queue: QueuedTask[] = [];
  #worker: Worker | undefined;
  #current: QueuedTask | undefined;
  #cancelIdle: (() => void) | undefined;
  /** Set while `stop` waits. */
  #onCurrentEnd: (() => void) | undefined;
  #nextId = 1;
  #stopped = false;

  constructor(options: WorkerLaneOptions) {
    this.#options = options;
  }

  /**
   * An abort takes a waiting task out of the queue at once; a running one is told, and the answer comes when it has cleaned
   * up.
   *
   * @throws what the task throws; `cancelled` when aborted or stopped; `internal` when the worker crashed
   */
  run<T>(task: WorkerTask, signal?: AbortSignal): Promise<T> {
    if (this.#stopped) return Promise.reject(cancelled('the aggregator is stopped'));
    if (signal?.aborted === true) return Promise.reject(cancelled('the task was cancelled'));
    return new Promise<T>((resolve, reject) => {
      const id = this.#nextId++;
      const onAbort = (): void => this.#abort(id);
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#queue.push({ id, task, signal, resolve: resolve as (result: never) => void, reject, onAbort });
      this.#startNext();
    });
  }

  /** Rejects waiting tasks, aborts the running one, and ends the worker after at most `graceMs`. Safe to repeat. */
  async stop(graceMs = 2_000): Promise<void> {
    this.#stopped = true;
    this.#cancelIdle?.();
    for (const waiting of this.#queue.splice(0)) this.#settle(waiting, cancelled('the aggregator is stopped'));
    const running = this.#current;
    if (running !== undefined) {
      this.#abort(running.id);
      const deadline = new AbortController();
      const ended = this.#currentEnded().finally(() => deadline.abort());
      await Promise.race([ended, this.#options.clock.sleep(graceMs, deadline.signal).catch(() => undefined)]);
    }
    await this.#endWorker();
    if (this.#current !== undefined) this.#finishCurrent(cancelled('the aggregator is stopped'));
  }

  #currentEnded(): Promise<void> {
    return new Promise((resolve) => {
      this.#onCurrentEnd = resolve;
    });
  }

  #abort(id: number): void {
    const index = this.#queue.findIndex((waiting) => waiting.id === id);
    const [waiting] = index < 0 ? [] : this.#queue.splice(index, 1);
    if (waiting !== undefined) this.#settle(waiting, cancelled('the task was cancelled'));
    else if (this.#current?.id === id) this.#send({ kind: 'abort', id });
  }

  #startNext(): void {
    if (this.#current !== undefined) return;
    const next = this.#queue.shift();
    if (next === undefined) {
      this.#restAWhile();
      return;
    }
    this.#cancelIdle?.();
    this.#current = next;
    this.#worker ??= this.#startWorker();
    // A waiting worker does not keep the process alive; a working one does.
    this.#worker.ref();
    this.#send({ kind: 'run', id: next.id, task: next.task });
  }

  #restAWhile(): void {
    this.#worker?.unref();
    this.#cancelIdle?.();
    this.#cancelIdle = this.#options.clock.after(this.#options.idleMs, () => void this.#endWorker());
  }

  #startWorker(): Worker {
    const { entry, maxHeapMiB } = this.#options;
    const worker = new Worker(entry.path, {
      execArgv: entry.execArgv,
      resourceLimits: { maxOldGenerationSizeMb: maxHeapMiB, maxYoungGenerationSizeMb: 8 },
    });
    worker.on('message', (reply: WorkerReply) => this.#onReply(reply));
    worker.on('error', (error) => this.#onWorkerEnd(worker, error));
    worker.on('exit', (code) => this.#onWorkerEnd(worker, `it exited with code ${code}`));
    return worker;
  }

  #send(request: WorkerRequest): void {
    this.#worker?.postMessage(request);
  }

  #onReply(reply: WorkerReply): void {
    if (reply.id !== this.#current?.id) return;
    if ('result' in reply) this.#finishCurrent(undefined, reply.result);
    else {
      const { code, message, details } = reply.error;
      const options = details === undefined ? {} : { details };
      this.#finishCurrent(new OctomilError(code, message, { ...options, cause: reply.cause }));
    }
  }

  #onWorkerEnd(worker: Worker, cause: unknown): void {
    if (worker !== this.#worker) return;
    this.#worker = undefined;
    if (this.#current === undefined) return;
    const what = this.#current.task.kind;
    const error = new OctomilError(
      'internal',
      `the worker thread ended while it was to ${what}; the log has its cause`,
      {
        cause,
      },
    );
    this.#finishCurrent(error);
  }

  #finishCurrent(error: OctomilError | undefined, result?: unknown): void {
    const ended = this.#current;
    this.#current = undefined;
    if (ended !== undefined) this.#settle(ended, error, result);
    this.#onCurrentEnd?.();
    if (!this.#stopped) this.#startNext();
  }

  #settle(task: QueuedTask, error: OctomilError | undefined, result?: unknown): void {
    task.signal?.removeEventListener('abort', task.onAbort);
    if (error === undefined) task.resolve(result as never);
    else task.reject(error);
  }

  async #endWorker(): Promise<void> {
    const worker = this.#worker;
    this.#worker = undefined;
    await worker?.terminate();
  }
}

function cancelled(reason: string): OctomilError {
  return new OctomilError('cancelled', reason);
}
