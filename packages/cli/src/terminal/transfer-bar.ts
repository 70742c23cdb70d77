import { bytesText } from './output.js';

/** Shows bytes that move, on standard error and in a terminal alone. */
export interface TransferBar {
  readonly show: (bytesDone: number, bytesTotal: number) => void;
  /** Leaves the line empty for what comes next. */
  end(): void;
}

const REDRAW_EVERY_MS = 100;

export function transferBar(label: string): TransferBar {
  const { stderr } = process;
  if (!stderr.isTTY) return { show: () => undefined, end: () => undefined };
  let drawnAtMs = 0;
  return {
    show: (done, total) => {
      const nowMs = performance.now();
      if (done < total && nowMs - drawnAtMs < REDRAW_EVERY_MS) return;
      drawnAtMs = nowMs;
      stderr.write(`\r\u001b[K${barLine(label, done, total, stderr.columns || 80)}`);
    },
    end: () => stderr.write('\r\u001b[K'),
  };
}

/** `heart.onnx  ████████░░░░  1.2 MB of 2.4 MB`, at most `width` columns. */
export function barLine(label: string, bytesDone: number, bytesTotal: number, width: number): string {
  const ratio = bytesTotal === 0 ? 1 : Math.min(1, bytesDone / bytesTotal);
  const full = Math.round(ratio * 20);
  const bar = `${'█'.repeat(full)}${'░'.repeat(20 - full)}`;
  return `${label}  ${bar}  ${bytesText(bytesDone)} of ${bytesText(bytesTotal)}`.slice(0, Math.max(1, width - 1));
}
