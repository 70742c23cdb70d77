import { type ChildProcess, fork } from 'node:child_process';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock, EntryPoint } from '@octomil/shared/runtime';
import type { FromTrainer, ToTrainer } from './trainer-messages.js';

const TAIL_CHARACTERS = 2_000;

/** Who waits for the task that runs. */
export interface TaskListener {
  readonly onMessage: (message: FromTrainer) => void;
  /** The process is gone. */
  readonly onEnd: () => void;
}

/** One trainer process, from its start to its end. */
export class TrainerChild {
  /** Resolves when the process is gone and its output is read; never rejects. */
  readonly ended: Promise<void>;
  #process: ChildProcess;
  #clock: Clock;
  #graceMs: number;
  #tail = '';
  #task: TaskListener | undefined;
  #end = 'it could not be started';

  constructor(entry: EntryPoint, clock: Clock, graceMs: number) {
    this.#clock = clock;
    this.#graceMs = graceMs;
    this.#process = fork(entry.path, {
      execArgv: entry.execArgv,
      serialization: 'advanced',
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    const child = this.#process;
    // Both are read: a full pipe would stop the trainer.
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#tail = (this.#tail + text).slice(-TAIL_CHARACTERS);
      });
    }
    child.on('message', (message: FromTrainer) => this.#task?.onMessage(message));
    this.ended = new Promise((resolve) => {
      child.on('close', (code, signal) => {
        this.#end = signal === null ? `it ended with exit code ${code}` : `it was ended by ${signal}`;
        resolve();
      });
      child.on('error', (error) => {
        this.#tail += error.message;
        // A process that never started has no `close`.
        if (child.pid === undefined) resolve();
      });
    });
    void this.ended.then(() => this.#task?.onEnd());
  }

  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** Whether a task can still be sent. */
  get usable(): boolean {
    return this.#process.connected;
  }

  /** One task at a time; output of earlier ones is forgotten, so that it is not shown with another's failure. */
  begin(task: TaskListener): void {
    this.#tail = '';
    this.#task = task;
  }

  /** Lets go of the task, whose result would be kept as long as the process lives. */
  finish(): void {
    this.#task = undefined;
  }

  send(message: ToTrainer): void {
    // A closed channel means that the process is ending; `ended` tells what became of the task.
    if (this.#process.connected) this.#process.send(message, () => undefined);
  }

  /** Kills the process after the grace period; the answer calls that off. */
  killLater(): () => void {
    return this.#clock.after(this.#graceMs, () => this.kill());
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }

  /** Ends the process, which is to have no task; kills it after the grace period. */
  async end(): Promise<void> {
    // Not disconnect(): after it Node emits no `close`.
    this.#process.kill('SIGTERM');
    const callOff = this.killLater();
    await this.ended;
    callOff();
  }

  /** What to say about a task that the process did not survive. */
  failure(memoryLimitBytes: number | undefined): OctomilError {
    const tail = this.#tail.trim();
    if (memoryLimitBytes !== undefined && tail.includes('heap out of memory')) {
      return new OctomilError(
        'insufficient_memory',
        `the trainer process needed more JavaScript heap than half of its ${Math.round(memoryLimitBytes / 1_048_576)} MiB of memory; allow more, or use a smaller model or batch`,
      );
    }
    return new OctomilError(
      'training_failed',
      `the trainer process did not finish the task: ${this.#end}${tail === '' ? '' : `; its last output:\n${tail}`}`,
    );
  }
}
