import type { TrainingEvent } from '@octomil/sdk';
import { drawView, emptyView, foldEvent } from './training-view.js';

/** Shows a training while it happens. */
export interface Progress {
  show(event: TrainingEvent): void;
  /** Leaves the terminal as it was. */
  end(): void;
}

/** Bars in a terminal, a line per event that matters elsewhere, every event as a line of JSON for programs. */
export async function openProgress(options: { json: boolean; rounds: number }): Promise<Progress> {
  if (options.json) {
    return {
      show: (event) => process.stdout.write(`${JSON.stringify({ event: event.type, ...event.data })}\n`),
      end: () => undefined,
    };
  }
  let view = emptyView(options.rounds);
  if (!process.stdout.isTTY) {
    return {
      show: (event) => {
        view = foldEvent(view, event);
        if (view.line !== undefined) process.stdout.write(`${view.line}\n`);
      },
      end: () => undefined,
    };
  }
  const { default: draw } = await import('log-update');
  const redraw = (): void => draw(drawView(view, process.stdout.columns ?? 80));
  return {
    show: (event) => {
      view = foldEvent(view, event);
      if (view.line !== undefined) draw.persist(view.line);
      redraw();
    },
    end: () => {
      draw.clear();
      draw.done();
    },
  };
}
