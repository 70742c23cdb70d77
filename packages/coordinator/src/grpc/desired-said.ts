import type { SessionResponse } from '@octomil/proto';
import type { DesiredModels } from '../rollouts/index.js';
import { say } from './wire-fields.js';

/** What one agent was told to run: it hears of it only when it differs, and of the last of what it missed. */
export class DesiredSaid {
  readonly #send: (message: SessionResponse) => Promise<void> | undefined;
  #digest: string | undefined;
  #next: DesiredModels | undefined;
  #saying = false;

  /** @param send waits while the agent does not read */
  constructor(send: (message: SessionResponse) => Promise<void> | undefined) {
    this.#send = send;
  }

  tell(desired: DesiredModels): void {
    this.#next = desired;
    if (!this.#saying) void this.#say();
  }

  async #say(): Promise<void> {
    this.#saying = true;
    for (let next = this.#next; next !== undefined; next = this.#next) {
      this.#next = undefined;
      if (next.digest === this.#digest) continue;
      this.#digest = next.digest;
      await this.#send(say.desired(next));
    }
    this.#saying = false;
  }
}
