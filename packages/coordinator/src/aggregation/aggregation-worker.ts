import { parentPort } from 'node:worker_threads';
import { toOctomilError } from '@octomil/shared/errors';
import { aggregate } from './aggregate.js';
import { validateUpdate } from './validate-update.js';
import type { WorkerReply, WorkerRequest, WorkerTask } from './worker-messages.js';

/** Entry point of the worker thread that `WorkerLane` starts: one task at a time, answers by message. */
const running = new Map<number, AbortController>();

parentPort?.on('message', (request: WorkerRequest) => {
  if (request.kind === 'abort') running.get(request.id)?.abort();
  else void answer(request.id, request.task);
});

async function answer(id: number, task: WorkerTask): Promise<void> {
  const controller = new AbortController();
  running.set(id, controller);
  let reply: WorkerReply;
  try {
    reply = { id, result: await run(task, controller.signal) };
  } catch (thrown) {
    const error = toOctomilError(thrown);
    reply = { id, error: error.toBody(), cause: causeOf(error.cause ?? error) };
  }
  running.delete(id);
  parentPort?.postMessage(reply);
}

function run(task: WorkerTask, signal: AbortSignal) {
  return task.kind === 'aggregate' ? aggregate(task.job, signal) : validateUpdate(task.job, signal);
}

function causeOf(thrown: unknown): string {
  return thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
}
