import { rm } from 'node:fs/promises';
import { openStateFolder } from './state-folder.js';

/**
 * Forgets the credential and everything that was fetched or made with it. The audit log stays. What the coordinator knows
 * of the device ends there, with `octomil devices revoke`.
 *
 * @throws OctomilError `store_locked` while the agent runs
 */
export async function unenrol(stateDir: string): Promise<void> {
  const folder = await openStateFolder(stateDir, Date.now);
  try {
    const { credentialPath, modelsPath, updatesPath, workPath, journalPath, questionsPath, controlVariatesPath } =
      folder;
    for (const path of [
      credentialPath,
      modelsPath,
      updatesPath,
      workPath,
      journalPath,
      questionsPath,
      controlVariatesPath,
    ]) {
      await rm(path, { recursive: true, force: true });
    }
  } finally {
    await folder.close();
  }
}
