/** The trainer's own process: tasks come in over IPC, one at a time. tfjs and DuckDB load with the first task that needs them. */
import { toOctomilError } from '@octomil/shared/errors';
import { DatasetCache } from './dataset-cache.js';
import { runTask } from './run-task.js';
import type { FromTrainer, ToTrainer } from './trainer-messages.js';

const PROGRESS_INTERVAL_MS = 100;

const running = new Map<number, AbortController>();
const datasets = new DatasetCache();

function send(message: FromTrainer): void {
  // Where the channel is gone, `disconnect` ends this process.
  if (process.connected) process.send?.(message);
}

async function run({ id, task, resources }: Extract<ToTrainer, { type: 'run' }>): Promise<void> {
  const controller = new AbortController();
  running.set(id, controller);
  let lastProgressMs = 0;
  try {
    const result = await runTask(task, {
      ...resources,
      signal: controller.signal,
      datasets,
      onProgress: (progress) => {
        const now = performance.now();
        if (now - lastProgressMs < PROGRESS_INTERVAL_MS && progress.step < progress.totalSteps) return;
        lastProgressMs = now;
        send({ type: 'progress', id, progress });
      },
    });
    send({ type: 'result', id, result });
  } catch (error) {
    const known = toOctomilError(error, 'training_failed');
    // The cause stays out of the message that travels; this log is what the supervisor keeps the tail of.
    console.error(known.cause instanceof Error ? known.cause.stack : known.message);
    send({ type: 'error', id, error: known.toBody() });
  } finally {
    running.delete(id);
  }
}

process.on('message', (message: ToTrainer) => {
  if (message.type === 'run') void run(message);
  else running.get(message.id)?.abort();
});
// A trainer never outlives its agent.
process.on('disconnect', () => process.exit(0));
// The agent decides when training ends; a Ctrl-C in its terminal reaches this process too.
process.on('SIGINT', () => undefined);
