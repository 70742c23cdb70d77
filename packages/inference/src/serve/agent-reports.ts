import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock, Logger } from '@octomil/shared/runtime';

/** How one answer of a deployed version went. */
export interface AnswerReport {
  readonly modelId: string;
  readonly versionId: string;
  readonly latencyMs: number;
  readonly failed: boolean;
}

export interface AgentReportsOptions {
  readonly stateDir: string;
  readonly clock: Clock;
  readonly logger: Logger;
}

const SEND_EVERY_MS = 1_000;
/** As many as an agent takes at once. */
const MOST_AT_ONCE = 1_000;
const TIMEOUT_MS = 5_000;

/** Tells the agent of this machine how answers went, a second later and never in their way. */
export class AgentReports {
  readonly #options: AgentReportsOptions;
  #waiting: AnswerReport[] = [];
  #callOff: (() => void) | undefined;
  #sending: Promise<void> = Promise.resolve();

  constructor(options: AgentReportsOptions) {
    this.#options = options;
  }

  /** While no agent listens, the oldest are forgotten. */
  add(report: AnswerReport): void {
    if (this.#waiting.length >= MOST_AT_ONCE) this.#waiting.shift();
    this.#waiting.push(report);
    this.#callOff ??= this.#options.clock.after(SEND_EVERY_MS, () => {
      this.#callOff = undefined;
      void this.flush();
    });
  }

  /** Sends what waits; never throws. */
  flush(): Promise<void> {
    this.#callOff?.();
    this.#callOff = undefined;
    this.#sending = this.#sending.then(() => this.#send());
    return this.#sending;
  }

  async #send(): Promise<void> {
    const reports = this.#waiting;
    if (reports.length === 0) return;
    this.#waiting = [];
    try {
      // Its address and token change with every start of the agent.
      const { url, token } = JSON.parse(await readFile(join(this.#options.stateDir, 'local-api.json'), 'utf8')) as {
        url: string;
        token: string;
      };
      const response = await fetch(`${url}/v1/inference-report`, {
        method: 'POST',
        headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
        body: JSON.stringify({
          reports: reports.map(({ modelId, versionId, latencyMs, failed }) => ({
            model_id: modelId,
            version_id: versionId,
            latency_ms: latencyMs,
            failed,
          })),
        }),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      await response.arrayBuffer();
    } catch (error) {
      this.#options.logger.debug({ error, reports: reports.length }, 'no agent took the figures of answers');
    }
  }
}
