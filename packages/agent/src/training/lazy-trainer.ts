import { type Clock, type EntryPoint, entryPoint, type Logger } from '@octomil/shared/runtime';
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
    const { idleMs, memoryLimitMb } = this.#settings;
    return new TrainerSupervisor({
      idleMs,
      ...this.#tools,
      ...(memoryLimitMb === undefined ? {} : { entry: limited(memoryLimitMb) }),
    });
  }
}

/** The trainer's own program with its JavaScript heap bounded: beyond it the process ends and the task has failed. */
function limited(memoryLimitMb: number): EntryPoint {
  const entry = entryPoint(import.meta.resolve('@octomil/shared/training'), 'trainer-process');
  return { ...entry, execArgv: [...entry.execArgv, `--max-old-space-size=${memoryLimitMb}`] };
}
