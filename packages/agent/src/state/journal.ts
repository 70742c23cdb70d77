import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ErrorBody } from '@octomil/shared/errors';
import { writeAtomically } from './atomic-file.js';

export interface AssignmentKey {
  readonly assignmentId: string;
  readonly attempt: number;
}

export const keyText = (key: AssignmentKey): string => `${key.assignmentId}.${key.attempt}`;

/** An update that is made and has no verdict yet. */
export interface PendingUpload {
  readonly state: 'upload';
  readonly key: AssignmentKey;
  readonly path: string;
  readonly format: string;
  readonly sizeBytes: number;
  readonly sha256: string;
  readonly sampleCount: number;
  readonly metricsJson: string;
  /** By this machine's clock; after it nobody waits for the update. */
  readonly deadlineAtMs: number;
  readonly context: WorkContext;
  /** That it was made of, as the assignment names them; absent in records of older agents. */
  readonly columns?: readonly string[];
  /** Code of the site's own that made it; absent in records of older agents too. */
  readonly code?: { readonly trainer: string; readonly sha256: string };
}

/** For the audit log of a resumed upload. */
export interface WorkContext {
  readonly federation: string;
  readonly model: string;
  readonly roundNumber: number;
  readonly dataSet: string | null;
  readonly rule: string;
}

/** How an assignment ended here, so that its repetition is answered and not done again. */
export type Outcome =
  | { readonly kind: 'refused' | 'failed' | 'rejected' | 'cancelled'; readonly problem: ErrorBody }
  | { readonly kind: 'accepted' }
  | { readonly kind: 'reported'; readonly json: string };

export interface Finished {
  readonly state: 'finished';
  readonly key: AssignmentKey;
  readonly outcome: Outcome;
  readonly finishedAtMs: number;
}

export type JournalRecord = PendingUpload | Finished;

/** Finished records kept; a coordinator repeats only open assignments, of which a device has a few. */
const KEPT_FINISHED = 256;

/**
 * Remembers, over restarts, which assignments are done and which updates still have to go out.
 * Not synced to disk: after a power cut the worst is that an assignment is done once more.
 */
export class Journal {
  readonly #folder: string;
  readonly #records = new Map<string, JournalRecord>();

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Damaged records (a full disk, a power cut) are dropped. */
  static open(folder: string): Journal {
    const journal = new Journal(folder);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const records: JournalRecord[] = [];
    for (const name of readdirSync(folder)) {
      if (!name.endsWith('.json')) continue;
      try {
        const record = JSON.parse(readFileSync(join(folder, name), 'utf8')) as JournalRecord;
        if (`${keyText(record.key)}.json` === name) records.push(record);
      } catch {}
    }
    const age = (record: JournalRecord): number => (record.state === 'finished' ? record.finishedAtMs : 0);
    for (const record of records.sort((a, b) => age(a) - age(b))) journal.#records.set(keyText(record.key), record);
    return journal;
  }

  get(key: AssignmentKey): JournalRecord | undefined {
    return this.#records.get(keyText(key));
  }

  pendingUploads(): PendingUpload[] {
    return [...this.#records.values()].filter((record) => record.state === 'upload');
  }

  async put(record: JournalRecord): Promise<void> {
    const name = keyText(record.key);
    this.#records.delete(name);
    this.#records.set(name, record);
    await writeAtomically(this.#pathOf(name), JSON.stringify(record));
    await this.#dropOld();
  }

  async remove(key: AssignmentKey): Promise<void> {
    this.#records.delete(keyText(key));
    await rm(this.#pathOf(keyText(key)), { force: true });
  }

  async #dropOld(): Promise<void> {
    let excess = this.#records.size - KEPT_FINISHED;
    for (const [name, record] of this.#records) {
      if (excess <= 0) return;
      if (record.state !== 'finished') continue;
      excess -= 1;
      this.#records.delete(name);
      await rm(this.#pathOf(name), { force: true });
    }
  }

  #pathOf(name: string): string {
    return join(this.#folder, `${name}.json`);
  }
}
