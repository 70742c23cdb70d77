import { rm } from 'node:fs/promises';
import { listPersonal, removeLeftRuns } from '@octomil/shared/training';
import { openStateFolder } from './state-folder.js';

/**
 * Forgets the credential and everything that was fetched or made with it, temporary copies of data that a killed agent left
 * included. The audit log stays, and so do personal models, which are the site's own, unless they are to go as well. What the
 * coordinator knows of the device ends there, with `octomil devices revoke`.
 *
 * @returns how many personal models are kept
 * @throws OctomilError `store_locked` while the agent runs
 */
export async function unenrol(
  stateDir: string,
  { personal = false }: { readonly personal?: boolean } = {},
): Promise<{ readonly personalModels: number }> {
  const folder = await openStateFolder(stateDir, Date.now);
  const { credentialPath, modelsPath, updatesPath, workPath, journalPath, questionsPath } = folder;
  const { controlVariatesPath, sourcesPath, personalPath, deployedPath, summariesPath, localApiPath } = folder;
  const paths = [credentialPath, modelsPath, updatesPath, journalPath, questionsPath, controlVariatesPath];
  const fetched = [sourcesPath, deployedPath, summariesPath, localApiPath];
  try {
    await removeLeftRuns(workPath);
    for (const path of [...paths, ...fetched, ...(personal ? [personalPath] : [])]) {
      await rm(path, { recursive: true, force: true });
    }
    return { personalModels: (await listPersonal(personalPath)).length };
  } finally {
    await folder.close();
  }
}
