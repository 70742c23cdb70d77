/** A wake-up for a row: it may be lost, late or doubled without harm, because its handler reads the row again. */
export interface JobQueue<D extends object> {
  /** Jobs are removed when they finish or fail, so that the same wake-up can be added again. */
  add(data: D, options?: { delayMs?: number }): Promise<void>;
  close(): Promise<void>;
}

export interface JobWorker {
  close(): Promise<void>;
}

/** BullMQ, on Redis or on the database. */
export interface Jobs {
  readonly backend: 'redis' | 'postgres' | 'pglite';
  queue<D extends object>(name: string): Promise<JobQueue<D>>;
  worker<D extends object>(name: string, handle: (data: D) => Promise<void>, concurrency: number): Promise<JobWorker>;
  close(): Promise<void>;
}
