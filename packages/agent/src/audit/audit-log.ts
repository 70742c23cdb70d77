import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { basename } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import type { Clock } from '@octomil/shared/runtime';

/** One thing that is about to leave the site. Sizes, digests and counts, never data. */
export interface AuditEntry {
  /**
   * `enrollment`: name and labels; `site_summary`: data set names, row counts and digests, policy;
   * `statistics`: column aggregates; `evaluation`: metrics; `progress`: steps and batch losses (once per assignment);
   * `update`: trained weights or their change; `failure`: the reason why an assignment was not done; `deployment`: which version of a model runs here, or why not;
   * `inference_counters`: counts and latencies of answers (once per activation).
   */
  readonly kind:
    | 'enrollment'
    | 'site_summary'
    | 'statistics'
    | 'evaluation'
    | 'progress'
    | 'update'
    | 'failure'
    | 'deployment'
    | 'inference_counters';
  readonly federation?: string;
  readonly model?: string;
  readonly round?: number;
  readonly assignmentId?: string;
  readonly dataSet?: string | null;
  /** The rule of the site's policy that allowed it. */
  readonly rule?: string;
  readonly sizeBytes?: number;
  readonly sha256?: string;
  readonly sampleCount?: number;
  readonly details?: Readonly<Record<string, unknown>>;
}

export interface AuditLogOptions {
  readonly clock: Clock;
  /** The file is renamed to `.1` (and that to `.2` …) when it reaches this size. Default 16 MiB. */
  readonly maxBytes?: number;
  /** Renamed files kept. Default 10. */
  readonly keptFiles?: number;
}

/** Names come from the coordinator, of any length: a few long ones would push the older entries out of the kept files. */
const MAX_TEXT_CHARACTERS = 1_000;

const shortened = (_: string, value: unknown): unknown =>
  typeof value === 'string' && value.length > MAX_TEXT_CHARACTERS ? `${value.slice(0, MAX_TEXT_CHARACTERS)}…` : value;

/** Append-only JSON lines. An entry is on disk before `record` resolves, and nothing leaves the site before that. */
export class AuditLog {
  readonly #path: string;
  readonly #clock: Clock;
  readonly #maxBytes: number;
  readonly #keptFiles: number;
  #file: FileHandle | undefined;
  #sizeBytes = 0;
  #waiting: { line: string; resolve: () => void; reject: (error: unknown) => void }[] = [];
  #writing: Promise<void> | undefined;

  constructor(path: string, options: AuditLogOptions) {
    this.#path = path;
    this.#clock = options.clock;
    this.#maxBytes = options.maxBytes ?? 16 * 1_048_576;
    this.#keptFiles = options.keptFiles ?? 10;
  }

  /**
   * Entries that wait together are written and synced together.
   *
   * @throws OctomilError `insufficient_storage` when the entry cannot be written; what it announces must then stay here
   */
  record(entry: AuditEntry): Promise<void> {
    const line = `${JSON.stringify({ at: new Date(this.#clock.now()).toISOString(), ...entry }, shortened)}\n`;
    return new Promise((resolve, reject) => {
      this.#waiting.push({ line, resolve, reject });
      this.#writing ??= this.#drain();
    });
  }

  async close(): Promise<void> {
    await this.#writing;
    await this.#file?.close();
    this.#file = undefined;
  }

  async #drain(): Promise<void> {
    while (this.#waiting.length > 0) {
      const batch = this.#waiting;
      this.#waiting = [];
      try {
        await this.#append(batch.map(({ line }) => line).join(''));
        for (const { resolve } of batch) resolve();
      } catch (error) {
        const problem = new OctomilError(
          'insufficient_storage',
          `the audit log ${basename(this.#path)} in the state folder cannot be written (${(error as NodeJS.ErrnoException).code}); nothing leaves this site until it can`,
          { cause: error },
        );
        for (const { reject } of batch) reject(problem);
      }
    }
    this.#writing = undefined;
  }

  async #append(text: string): Promise<void> {
    const bytes = Buffer.from(text);
    if (this.#file !== undefined && this.#sizeBytes > 0 && this.#sizeBytes + bytes.length > this.#maxBytes) {
      await this.#rotate();
    }
    if (this.#file === undefined) {
      this.#file = await open(this.#path, 'a', 0o600);
      this.#sizeBytes = (await this.#file.stat()).size;
    }
    try {
      await this.#file.appendFile(bytes);
      await this.#file.datasync();
    } catch (error) {
      // A full disk takes the first part of an entry: without it the next entry would continue that line.
      await this.#file.truncate(this.#sizeBytes).catch(() => undefined);
      throw error;
    }
    this.#sizeBytes += bytes.length;
  }

  async #rotate(): Promise<void> {
    await this.#file?.close();
    this.#file = undefined;
    await rm(`${this.#path}.${this.#keptFiles}`, { force: true });
    for (let index = this.#keptFiles - 1; index >= 0; index--) {
      const from = index === 0 ? this.#path : `${this.#path}.${index}`;
      await rename(from, `${this.#path}.${index + 1}`).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'ENOENT') throw error;
      });
    }
  }
}
