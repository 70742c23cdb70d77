import { MINIMUM_ROWS } from '@octomil/shared/features';
import type { Clock } from '@octomil/shared/runtime';
import type { TrainingProgress } from '@octomil/shared/training';

export interface ProgressStep {
  readonly phase: 'download' | 'load' | 'train' | 'upload';
  readonly completed: number;
  readonly total: number;
  readonly loss?: number;
}

/** Between two reports, and before the first: work that is done sooner says so by its result alone. */
const INTERVAL_MS = 1_000;

/** Thins out progress to one report a second. */
export class ProgressThrottle {
  readonly #clock: Clock;
  readonly #send: (step: ProgressStep) => void;
  #lastAtMs: number;

  constructor(clock: Clock, send: (step: ProgressStep) => void) {
    this.#clock = clock;
    this.#send = send;
    this.#lastAtMs = clock.now();
  }

  report(step: ProgressStep): void {
    const nowMs = this.#clock.now();
    if (nowMs - this.#lastAtMs < INTERVAL_MS) return;
    this.#lastAtMs = nowMs;
    this.#send(step);
  }
}

/**
 * Repeats `tell` until the answer is called. Reading, describing and evaluating a large table move no bytes and take no
 * steps, and without a word from the site its assignment would be given to another. The round's deadline still ends it.
 */
export function repeatUntilStopped(clock: Clock, everyMs: number, tell: () => void): () => void {
  let stopped = false;
  let callOff = (): void => undefined;
  const again = (): void => {
    callOff = clock.after(everyMs, () => {
      if (stopped) return;
      tell();
      again();
    });
  };
  again();
  return () => {
    stopped = true;
    callOff();
  };
}

/** A training step as it may leave the site. The loss goes along only when it is one of at least ten rows. */
export function trainStep(progress: TrainingProgress): ProgressStep {
  const tellsLoss = (progress.rows ?? 0) >= MINIMUM_ROWS && Number.isFinite(progress.loss);
  return {
    phase: 'train',
    completed: progress.step,
    total: progress.totalSteps,
    ...(tellsLoss ? { loss: progress.loss } : {}),
  };
}
