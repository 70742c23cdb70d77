import { chmodSync, mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { type FolderLock, lockFolder } from '@octomil/shared/runtime';

/** The agent's folder on disk; everything in it is for its owner alone. */
export interface StateFolder {
  readonly path: string;
  readonly credentialPath: string;
  /** Bases by digest. */
  readonly modelsPath: string;
  /** Updates that are being made or wait for their verdict. */
  readonly updatesPath: string;
  /** Where the site's own code runs; emptied at each start. */
  readonly workPath: string;
  /** What of models is this site's own, one folder each. */
  readonly personalPath: string;
  /** One record per assignment that was finished or is being uploaded. */
  readonly journalPath: string;
  /** SCAFFOLD's, one folder per session. */
  readonly controlVariatesPath: string;
  /** What was told about which data set. */
  readonly questionsPath: string;
  /** One folder per deployed model. */
  readonly deployedPath: string;
  /** Where programs on this machine reach the agent, and with which token. */
  readonly localApiPath: string;
  readonly auditPath: string;
  readonly summariesPath: string;
  /** Temporary copies of remote data. */
  readonly sourcesPath: string;
  close(): Promise<void>;
}

/**
 * Makes the folder where needed (0700), narrows its rights, and locks it.
 *
 * @throws OctomilError `store_locked` when another agent uses it; `config_invalid` when it cannot be made or written
 */
export async function openStateFolder(path: string, now: () => number): Promise<StateFolder> {
  const modelsPath = join(path, 'models');
  const updatesPath = join(path, 'updates');
  const journalPath = join(path, 'journal');
  const deployedPath = join(path, 'deployed');
  let lock: FolderLock;
  try {
    for (const folder of [path, modelsPath, updatesPath, journalPath, deployedPath]) {
      mkdirSync(folder, { recursive: true, mode: 0o700 });
    }
    if (process.platform !== 'win32' && (statSync(path).mode & 0o077) !== 0) chmodSync(path, 0o700);
    lock = await lockFolder(path, now);
  } catch (error) {
    if (error instanceof OctomilError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    throw new OctomilError(
      'config_invalid',
      `the state folder ${path} cannot be used (${code}); set another state_dir`,
      {
        cause: error,
      },
    );
  }
  return {
    path,
    credentialPath: join(path, 'credential.json'),
    modelsPath,
    updatesPath,
    workPath: join(path, 'work'),
    personalPath: join(path, 'personal'),
    journalPath,
    controlVariatesPath: join(path, 'control-variates'),
    questionsPath: join(path, 'questions'),
    deployedPath,
    localApiPath: join(path, 'local-api.json'),
    auditPath: join(path, 'audit.jsonl'),
    summariesPath: join(path, 'data-sets.json'),
    sourcesPath: join(path, 'sources'),
    close: () => lock.release(),
  };
}
