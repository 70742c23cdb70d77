import { setTimeout as sleep } from 'node:timers/promises';
import type { Client, Rollout } from '@octomil/sdk';
import { interruptible } from './interrupt.js';
import { drawRollout, foldRollout, isSettled, type RolloutView, rolloutLine } from './rollout-view.js';

/** Between two looks. */
const LOOK_EVERY_MS = 1_000;
/** A completed rollout of which nothing is heard for so long waits for devices that are away. */
const QUIET_MS = 60_000;

/**
 * Shows a rollout until it has ended and its devices have said how they do, for until then a bad version may still be
 * rolled back: a table that is drawn anew in a terminal, a line per change elsewhere, a line of JSON per change for
 * programs. Ctrl-C ends the watching alone.
 *
 * @returns 0 when it was completed, 1 when it was rolled back or failed, 130 when interrupted
 */
export async function watchRollout(
  { rollouts }: Client,
  of: { readonly modelId: string; readonly rolloutId: number },
  json: unknown,
): Promise<number> {
  const { signal, release } = interruptible();
  const show = await screen(json === true);
  try {
    let seen = '';
    let changedAtMs = performance.now();
    while (true) {
      const rollout = await rollouts.get({ ...of, signal });
      const now = JSON.stringify(rollout);
      if (now !== seen) {
        changedAtMs = performance.now();
        await show.rollout(rollout);
      }
      seen = now;
      if (isSettled(rollout)) return rollout.status === 'completed' ? 0 : 1;
      if (rollout.status === 'completed' && performance.now() - changedAtMs > QUIET_MS) {
        show.end();
        process.stderr.write('It is completed; devices that were not heard of get it when they connect.\n');
        return 0;
      }
      await sleep(LOOK_EVERY_MS, undefined, { signal });
    }
  } catch (error) {
    if (!signal.aborted) throw error;
    show.end();
    process.stderr.write(`Rollout ${of.rolloutId} goes on without being watched.\n`);
    return 130;
  } finally {
    show.end();
    release();
  }
}

interface Screen {
  rollout(rollout: Rollout): Promise<void>;
  end(): void;
}

async function screen(json: boolean): Promise<Screen> {
  if (json) {
    return {
      rollout: async (rollout) => void process.stdout.write(`${JSON.stringify(rollout)}\n`),
      end: () => undefined,
    };
  }
  if (!process.stdout.isTTY) {
    let line = '';
    return {
      rollout: async (rollout) => {
        const now = rolloutLine(rollout);
        if (now !== line) process.stdout.write(`${now}\n`);
        line = now;
      },
      end: () => undefined,
    };
  }
  const { default: draw } = await import('log-update');
  let view: RolloutView = [];
  return {
    rollout: async (rollout) => {
      view = foldRollout(view, rollout);
      draw(await drawRollout(view));
    },
    // What it showed last stays.
    end: () => draw.done(),
  };
}
