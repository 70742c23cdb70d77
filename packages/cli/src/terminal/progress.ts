import type { TrainingEvent } from '@octomil/sdk';
import { plain } from './plain.js';
import { drawView, emptyView, foldEvent } from './training-view.js';

/** Shows a training while it happens. */
export interface Progress {
  show(event: TrainingEvent): void;
  /** Leaves the terminal as it was. */
  end(): void;
}

export interface ProgressOptions {
  readonly json: boolean;
  /** 0 where only the coordinator knows. */
  readonly rounds: number;
  /** What each site is doing right now: rows tell of every step, events only of the ones that count. */
  readonly lookAt?: (roundId: string) => Promise<readonly Readonly<Record<string, unknown>>[]>;
}

/** How often a terminal looks at what the sites are doing. */
const LOOK_EVERY_MS = 1_000;

/** Bars in a terminal, a line per event that matters elsewhere, every event as a line of JSON for programs. */
export async function openProgress(options: ProgressOptions): Promise<Progress> {
  if (options.json) {
    return {
      show: (event) => process.stdout.write(`${JSON.stringify({ event: event.type, ...event.data })}\n`),
      end: () => undefined,
    };
  }
  if (process.stdout.isTTY) return bars(options);
  let view = emptyView(options.rounds);
  return {
    show: (event) => {
      view = foldEvent(view, event);
      if (view.line !== undefined) process.stdout.write(plain(`${view.line}\n`));
    },
    end: () => undefined,
  };
}

async function bars({ rounds, lookAt }: ProgressOptions): Promise<Progress> {
  const { default: draw } = await import('log-update');
  let view = emptyView(rounds);
  let roundId: string | undefined;
  let ended = false;
  // A terminal may claim to have no columns at all.
  const redraw = (): void => draw(plain(drawView(view, process.stdout.columns || 80)));
  const look = async (): Promise<void> => {
    const asked = roundId;
    if (asked === undefined || lookAt === undefined) return;
    const assignments = await lookAt(asked);
    // The event that says so comes by itself, with its line.
    const working = assignments.filter(({ state }) => state === 'open' || state === 'accepted');
    if (ended || asked !== roundId) return;
    for (const data of working) view = foldEvent(view, { id: '', type: 'assignment', data });
    redraw();
  };
  // What cannot be looked at now is looked at again a second later.
  const timer = setInterval(() => void look().catch(() => undefined), LOOK_EVERY_MS);
  timer.unref();
  return {
    show: (event) => {
      view = foldEvent(view, event);
      if (event.type === 'round' && typeof event.data['roundId'] === 'string') {
        const running = event.data['state'] === 'collecting' || event.data['state'] === 'selecting';
        roundId = running ? event.data['roundId'] : undefined;
      }
      if (view.line !== undefined) draw.persist(plain(view.line));
      redraw();
    },
    end: () => {
      if (ended) return;
      ended = true;
      clearInterval(timer);
      draw.clear();
      draw.done();
    },
  };
}
