/** Something that runs until it is stopped. Stopping twice is safe. */
export interface Service {
  stop(): Promise<void>;
}

/**
 * Collects what was started and stops it in reverse order. Every step is tried; the first failure is thrown at the end.
 */
export class Lifecycle implements Service {
  readonly #steps: { name: string; stop: () => Promise<void> | void }[] = [];
  #stopping: Promise<void> | undefined;

  add<T extends Service>(name: string, service: T): T {
    this.onStop(name, () => service.stop());
    return service;
  }

  onStop(name: string, stop: () => Promise<void> | void): void {
    this.#steps.push({ name, stop });
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#run();
    return this.#stopping;
  }

  async #run(): Promise<void> {
    let failure: { error: unknown } | undefined;
    for (const step of this.#steps.reverse()) {
      try {
        await step.stop();
      } catch (error) {
        failure ??= { error };
      }
    }
    if (failure !== undefined) throw failure.error;
  }
}
