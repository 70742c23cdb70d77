import { createHash } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { OctomilError } from '@octomil/shared/errors';
import { decodeWeights, encodeWeights } from '@octomil/shared/tensors';
import type { ControlVariateFiles, RunOptions, Trainer, TrainerResult, TrainerTask } from '@octomil/shared/training';

/** One number, raised by one: how often it was counted on. */
async function nextControlVariate({ ownPath, ownOutputPath }: ControlVariateFiles): Promise<void> {
  const [before] = ownPath === undefined ? [] : decodeWeights(await readFile(ownPath));
  const data = Float32Array.of((before?.data[0] ?? 0) + 1);
  await writeFile(ownOutputPath, encodeWeights([{ name: 'controlVariate/bias', shape: [1], data }]));
}

/** Trains nothing: an update is the base with its last byte raised by one. */
export class FakeTrainer implements Trainer {
  readonly tasks: TrainerTask[] = [];
  stopped = false;
  /** Tasks wait for it. */
  gate: Promise<void> = Promise.resolve();
  failure: OctomilError | undefined;
  /** Tasks of this kind never end. */
  hangsOn: TrainerTask['kind'] | undefined;

  async run<T extends TrainerTask>(task: T, { signal }: RunOptions = {}): Promise<TrainerResult<T>> {
    this.tasks.push(task);
    const cancelled = Promise.withResolvers<never>();
    cancelled.promise.catch(() => undefined);
    const onAbort = (): void => cancelled.reject(new OctomilError('cancelled', 'cancelled'));
    if (signal?.aborted) onAbort();
    signal?.addEventListener('abort', onAbort, { once: true });
    const gate = task.kind === this.hangsOn ? new Promise<void>(() => undefined) : this.gate;
    await Promise.race([gate, cancelled.promise]);
    if (this.failure !== undefined) throw this.failure;
    return (await this.#result(task)) as TrainerResult<T>;
  }

  async stop(): Promise<void> {
    this.stopped = true;
  }

  async #result(task: TrainerTask): Promise<unknown> {
    if (task.kind === 'describe') return { formatVersion: 1, rows: 120, columns: [], excluded: [], target: null };
    if (task.kind === 'evaluate') return { count: 24, loss: 0.5, accuracy: 0.75, auc: null };
    if (task.kind === 'predict') return { outputs: [[0]], backend: 'fake' };
    const bytes = await readFile(task.basePath);
    const last = bytes.length - 1;
    bytes[last] = ((bytes[last] ?? 0) + 1) % 256;
    await writeFile(task.outputPath, bytes);
    if (task.trainer === 'tfjs' && task.controlVariates !== undefined) await nextControlVariate(task.controlVariates);
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    return {
      sampleCount: 40,
      trainLoss: null,
      evaluation: null,
      update: { path: task.outputPath, sha256, sizeBytes: bytes.length },
      backend: 'echo',
      steps: 0,
    };
  }
}
