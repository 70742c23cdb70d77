import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';
import type { Activity } from '../conditions/condition-rules.js';
import type { Eligibility } from '../conditions/eligibility.js';
import type { DesiredVersion } from './desired-version.js';

/** How often the machine is looked at while something waits for it, and while a download goes on. */
export const CONDITIONS_CHECK_MS = 10_000;

export interface WaitsOptions {
  readonly eligibility: Pick<Eligibility, 'unmet'>;
  /** Assignments that are being worked on. */
  readonly busy: () => number;
  readonly clock: Clock;
}

/** Waits until the machine may. */
export class Waits {
  readonly #options: WaitsOptions;
  #recheck = Promise.withResolvers<void>();

  constructor(options: WaitsOptions) {
    this.#options = options;
  }

  /** Somebody changed what is waited for. */
  recheck(): void {
    this.#recheck.resolve();
    this.#recheck = Promise.withResolvers();
  }

  /** @param onWait called whenever the reason is another one @throws the signal's reason */
  async until(activity: Activity, signal: AbortSignal, onWait: (problem: OctomilError) => void): Promise<void> {
    await this.#untilNothing(() => this.#options.eligibility.unmet(activity), signal, onWait);
  }

  /** By the site's rules and by what the rollout asks. */
  async untilActivation(
    version: DesiredVersion,
    released: () => boolean,
    signal: AbortSignal,
    onWait: (problem: OctomilError) => void,
  ): Promise<void> {
    const { eligibility, busy } = this.#options;
    const idle = version.activation === 'when_idle';
    await this.#untilNothing(
      async () => {
        if (version.activation === 'manual' && !released()) return manual(version);
        if (idle && busy() > 0) {
          const details = { activity: 'activation', rule: 'idle', value: busy(), limit: 0 };
          return new OctomilError('conditions_not_met', `activation waits for ${busy()} running assignments`, {
            details,
          });
        }
        return eligibility.unmet('activation', idle ? { idle: true } : {});
      },
      signal,
      onWait,
    );
  }

  /**
   * Runs work that must not go on when the machine may not; then it waits and runs it again.
   *
   * @throws what the work throws; the signal's reason
   */
  async whileAllowed(
    activity: Activity,
    signal: AbortSignal,
    onWait: (problem: OctomilError | undefined) => void,
    work: (signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    for (;;) {
      await this.until(activity, signal, onWait);
      onWait(undefined);
      const lapsed = new AbortController();
      const callOff = this.#watch(activity, lapsed);
      try {
        await work(AbortSignal.any([signal, lapsed.signal]));
        return;
      } catch (error) {
        if (!lapsed.signal.aborted || signal.aborted) throw error;
      } finally {
        callOff();
      }
    }
  }

  #watch(activity: Activity, lapsed: AbortController): () => void {
    const { clock, eligibility } = this.#options;
    let callOff = (): void => undefined;
    let over = false;
    const again = (): void => {
      callOff = clock.after(CONDITIONS_CHECK_MS, () => {
        void eligibility.unmet(activity).then((problem) => {
          if (over) return;
          if (problem === undefined) again();
          else lapsed.abort(problem);
        });
      });
    };
    again();
    return () => {
      over = true;
      callOff();
    };
  }

  async #untilNothing(
    read: () => Promise<OctomilError | undefined>,
    signal: AbortSignal,
    onWait: (problem: OctomilError) => void,
  ): Promise<void> {
    let told = '';
    for (;;) {
      const recheck = this.#recheck.promise;
      const problem = await read();
      signal.throwIfAborted();
      if (problem === undefined) return;
      // The value changes all the time; the rule is the news.
      const news = JSON.stringify([problem.details?.['activity'], problem.details?.['rule']]);
      if (news !== told) onWait(problem);
      told = news;
      const done = new AbortController();
      const sleeping = this.#options.clock.sleep(CONDITIONS_CHECK_MS, AbortSignal.any([signal, done.signal]));
      await Promise.race([sleeping, recheck]).finally(() => done.abort());
    }
  }
}

function manual({ modelId, modelName, versionId }: DesiredVersion): OctomilError {
  return new OctomilError(
    'conditions_not_met',
    `activation is by hand: somebody at the site runs "octomil agent activate" for model "${modelName}"`,
    { details: { activity: 'activation', rule: 'manual', value: versionId, limit: null, modelId } },
  );
}
