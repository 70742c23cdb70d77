import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { OctomilError } from '@octomil/shared/errors';
import { endProcess } from './agent-processes.js';
import type { FleetRequest, FleetStatus, FleetTask } from './simulated-fleet-process.js';

/** Simulated devices in a process of their own. */
export class SimulatedFleet {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve(value: unknown): void; reject(error: unknown): void }>();
  #next = 0;

  private constructor(child: ChildProcess, logFile: string) {
    this.#child = child;
    child.on('message', ({ id, value, error }: { id: number; value?: unknown; error?: string }) => {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) waiting?.resolve(value);
      else waiting?.reject(new OctomilError('internal', error));
    });
    child.once('exit', () => {
      const error = new OctomilError('runtime_unavailable', `the simulated devices ended; see ${logFile}`);
      for (const { reject } of this.#waiting.values()) reject(error);
    });
  }

  /** Resolves when every device is connected. */
  static async start(task: FleetTask, logFile: string): Promise<SimulatedFleet> {
    const log = openSync(logFile, 'a');
    const child = fork(fileURLToPath(new URL('./simulated-fleet-process.js', import.meta.url)), {
      stdio: ['ignore', log, log, 'ipc'],
      execArgv: [],
    });
    await once(child, 'spawn');
    const fleet = new SimulatedFleet(child, logFile);
    await fleet.#ask({ ask: 'start', task });
    return fleet;
  }

  async setFaults(faults: FleetTask['faults']): Promise<void> {
    await this.#ask({ ask: 'faults', faults });
  }

  async status(versionId: string): Promise<FleetStatus> {
    return (await this.#ask({ ask: 'status', versionId })) as FleetStatus;
  }

  /** Indexes of the devices that were ever told to run the version. */
  async told(versionId: string): Promise<number[]> {
    return (await this.#ask({ ask: 'told', versionId })) as number[];
  }

  /** HTTP statuses of asking for a file by its digest, told or not. */
  async tryDownload(sha256: string, deviceIndexes: readonly number[]): Promise<number[]> {
    return (await this.#ask({ ask: 'try-download', sha256, deviceIndexes })) as number[];
  }

  stop(): Promise<void> {
    return endProcess({ child: this.#child }, 'SIGKILL');
  }

  #ask(request: FleetRequest): Promise<unknown> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#child.send({ id, request });
    });
  }
}
