import type { Clock, Logger } from '@octomil/shared/runtime';
import type { RunOptions, Trainer, TrainerResult, TrainerTask } from '@octomil/shared/training';
import type { AgentConfig } from '../config/agent-config.js';

/** The trainer process behind the port; its supervisor is loaded with the first task. */
export class LazyTrainer implements Trainer {
  readonly #settings: AgentConfig['trainer'];
  readonly #tools: { readonly clock: Clock; readonly logger: Logger };
  #supervisor: Promise<Trainer> | undefined;

  constructor(settings: AgentConfig['trainer'], tools: { readonly clock: Clock; readonly logger: Logger }) {
    this.#settings = settings;
    this.#tools = tools;
  }

  async run<T extends TrainerTask>(task: T, options?: RunOptions): Promise<TrainerResult<T>> {
    this.#supervisor ??= this.#load();
    return (await this.#supervisor).run(task, options);
  }

  async stop(): Promise<void> {
    await (await this.#supervisor)?.stop();
  }

  async #load(): Promise<Trainer> {
    const { TrainerSupervisor } = await import('@octomil/shared/training');
    const { idleMs, memoryLimitMb, temporaryFolder } = this.#settings;
    return new TrainerSupervisor({
      idleMs,
      temporaryFolder,
      ...this.#tools,
      ...(memoryLimitMb === undefined ? {} : { memoryLimitBytes: memoryLimitMb * 1_048_576 }),
    });
  }
}
