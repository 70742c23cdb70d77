import { type Client, isFinished, type Rollout } from '@octomil/sdk';
import { interruptible } from './interrupt.js';
import { drawRollout, foldRollout, type RolloutView, rolloutLine } from './rollout-view.js';

/** Between two looks. */
const LOOK_EVERY_MS = 1_000;

/**
 * Shows a rollout until it has ended: a table that is drawn anew in a terminal, a line per change elsewhere, a line of JSON
 * per change for programs. Ctrl-C ends the watching alone.
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
  let last: Rollout | undefined;
  try {
    for await (const rollout of rollouts.watch({ ...of, intervalMs: LOOK_EVERY_MS, signal })) {
      last = rollout;
      await show.rollout(rollout);
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
  return last !== undefined && isFinished(last) && last.status === 'completed' ? 0 : 1;
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
