import { backupCoordinator, readCoordinatorConfig, restoreCoordinator } from '@octomil/coordinator';
import { createLogger } from '@octomil/shared/runtime';
import type { Options } from '../program.js';
import { bytesText, print } from '../terminal/output.js';

/** Copies every row and every object of the coordinator that the environment configures. */
export async function backup({ dataDir, json }: Options, path: string): Promise<void> {
  const manifest = await backupCoordinator(configOf(dataDir), path, { logger: createLogger('backup', 'error') });
  await print(json, { path, ...manifest }, () => `${path}\n${contents(manifest)}`);
}

/** Fills the empty stores of the coordinator that the environment configures. */
export async function restore({ dataDir, json }: Options, path: string): Promise<void> {
  const manifest = await restoreCoordinator(configOf(dataDir), path, { logger: createLogger('restore', 'error') });
  await print(
    json,
    { path, ...manifest },
    () =>
      `Restored what was backed up at ${manifest.created_at}.\n${contents(manifest)}\nKeys and devices go on as before.`,
  );
}

function configOf(dataDir: unknown): ReturnType<typeof readCoordinatorConfig> {
  return readCoordinatorConfig(
    typeof dataDir === 'string' ? { ...process.env, OCTOMIL_DATA_DIR: dataDir } : process.env,
  );
}

function contents(manifest: Awaited<ReturnType<typeof backupCoordinator>>): string {
  const { tables, objects, missing_objects: missing } = manifest;
  const rows = tables.reduce((sum, table) => sum + table.rows, 0);
  const lines = [
    `${rows} rows of ${tables.length} tables, ${objects.count} objects of ${bytesText(objects.total_bytes)}`,
  ];
  if (missing.length > 0) {
    const named = missing.slice(0, 5).join(', ');
    lines.push(
      `WARNING  the store lacked ${missing.length} objects that rows name: ${named}${missing.length > 5 ? ', …' : ''}`,
    );
  }
  return lines.join('\n');
}
