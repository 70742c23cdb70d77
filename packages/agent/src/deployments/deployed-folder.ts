import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { copyFile, link, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { writeAtomically } from '../state/atomic-file.js';
import { type ActivePointer, type DeployedVersion, parsePointer } from './active-pointer.js';
import { type Artifact, type DesiredVersion, isSafeId, sameArtifacts } from './desired-version.js';

const POINTER = 'active.json';
/** Says what a version folder is made of; in a half-made one, what its downloads are. */
const MANIFEST = '.version.json';
const HALF_MADE = '.tmp';

/**
 * `state_dir/deployed/<model id>/`: one folder per version, and `active.json`, whose replacement is the activation.
 * A version folder is made under another name and renamed when it is whole, so that a crash leaves it whole or absent.
 */
export class DeployedFolder {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  /** Ids of models that have anything here. */
  async models(): Promise<string[]> {
    return (await readdir(this.#path)).filter(isSafeId);
  }

  modelPath(modelId: string): string {
    return join(this.#path, modelId);
  }

  /** What runs here, as far as its files are there in full; undefined without. */
  async readPointer(modelId: string): Promise<ActivePointer | undefined> {
    const text = await readFile(join(this.modelPath(modelId), POINTER), 'utf8').catch(() => '');
    const pointer = parsePointer(text, modelId);
    if (pointer === undefined || !(await this.#hasFiles(modelId, pointer.active))) return undefined;
    const keepsPrevious = pointer.previous !== null && (await this.#hasFiles(modelId, pointer.previous));
    return keepsPrevious ? pointer : { ...pointer, previous: null };
  }

  /** The activation. Durable: once this resolves, a crash or a power cut finds the new version. */
  async writePointer(pointer: ActivePointer): Promise<void> {
    const folder = this.modelPath(pointer.modelId);
    const text = `${JSON.stringify(pointer, null, 2)}\n`;
    await writeAtomically(join(folder, POINTER), text, { durable: true });
    await syncFolder(folder);
  }

  /** Begins a version's folder, so that an interrupted download of it is known after a restart. */
  async begin(version: DesiredVersion): Promise<void> {
    const folder = this.#halfMade(version);
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true, mode: 0o700 });
    await writeAtomically(join(folder, MANIFEST), JSON.stringify(version));
  }

  /** Puts one verified file into the begun folder: a link where the disk has them, else a copy. */
  async add(version: DesiredVersion, artifact: Artifact, from: string): Promise<void> {
    const to = join(this.#halfMade(version), artifact.fileName);
    await rm(to, { force: true });
    try {
      await link(from, to);
    } catch {
      await copyFile(from, to);
    }
    await syncFile(to);
  }

  /**
   * The begun folder is whole. Files that a version gains later (a format made since) are added to its folder one by one:
   * it may be the active one.
   */
  async finish(version: DesiredVersion): Promise<void> {
    const folder = this.#halfMade(version);
    const target = this.versionPath(version.modelId, version.versionId);
    await syncFolder(folder);
    if ((await stat(target).catch(() => undefined)) === undefined) await rename(folder, target);
    else {
      for (const { fileName } of version.artifacts) await rename(join(folder, fileName), join(target, fileName));
      await rename(join(folder, MANIFEST), join(target, MANIFEST));
      await rm(folder, { recursive: true, force: true });
      await syncFolder(target);
    }
    await syncFolder(this.modelPath(version.modelId));
  }

  versionPath(modelId: string, versionId: string): string {
    return join(this.modelPath(modelId), versionId);
  }

  artifactPath({ modelId, versionId }: { modelId: string; versionId: string }, { fileName }: Artifact): string {
    return join(this.versionPath(modelId, versionId), fileName);
  }

  /** Whether an earlier attempt, perhaps of an earlier process, left the version whole; every byte is read. */
  async isWhole(version: DesiredVersion, signal: AbortSignal): Promise<boolean> {
    const manifest = await readManifest(this.versionPath(version.modelId, version.versionId));
    if (manifest === undefined || !sameArtifacts(manifest.artifacts, version.artifacts)) return false;
    for (const artifact of version.artifacts) {
      const path = this.artifactPath(version, artifact);
      if ((await stat(path).catch(() => undefined))?.size !== artifact.sizeBytes) return false;
      if ((await sha256OfFile(path, signal)) !== artifact.sha256) return false;
    }
    return true;
  }

  /** Whether every file of a version is there with its size: enough for one that was whole when it was made. */
  async #hasFiles(modelId: string, version: DeployedVersion): Promise<boolean> {
    for (const artifact of version.artifacts) {
      const found = await stat(this.artifactPath({ modelId, versionId: version.versionId }, artifact)).catch(
        () => undefined,
      );
      if (found?.size !== artifact.sizeBytes) return false;
    }
    return true;
  }

  /**
   * Removes every other version, half-made ones and their downloads included.
   *
   * @returns the files of what was removed
   */
  async collect(modelId: string, keepVersionIds: ReadonlySet<string>): Promise<Artifact[]> {
    const folder = this.modelPath(modelId);
    const removed: Artifact[] = [];
    for (const entry of await readdir(folder, { withFileTypes: true }).catch(() => [])) {
      const path = join(folder, entry.name);
      if (!entry.isDirectory()) {
        // Of a crash between writing and renaming.
        if (entry.name.endsWith(HALF_MADE)) await rm(path, { force: true });
        continue;
      }
      const versionId = entry.name.endsWith(HALF_MADE) ? entry.name.slice(0, -HALF_MADE.length) : entry.name;
      if (keepVersionIds.has(versionId)) continue;
      removed.push(...((await readManifest(path))?.artifacts ?? []));
      await rm(path, { recursive: true, force: true });
    }
    return removed;
  }

  /** The pointer first: whoever reads it never finds it leading nowhere. */
  async remove(modelId: string): Promise<Artifact[]> {
    await rm(join(this.modelPath(modelId), POINTER), { force: true });
    const removed = await this.collect(modelId, new Set());
    await rm(this.modelPath(modelId), { recursive: true, force: true });
    return removed;
  }

  #halfMade({ modelId, versionId }: DesiredVersion): string {
    return `${this.versionPath(modelId, versionId)}${HALF_MADE}`;
  }
}

async function readManifest(folder: string): Promise<{ readonly artifacts: readonly Artifact[] } | undefined> {
  try {
    const parsed = JSON.parse(await readFile(join(folder, MANIFEST), 'utf8')) as { artifacts?: unknown } | null;
    return Array.isArray(parsed?.artifacts) ? (parsed as { artifacts: Artifact[] }) : undefined;
  } catch {
    return undefined;
  }
}

async function sha256OfFile(path: string, signal: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1_048_576, signal })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

async function syncFile(path: string): Promise<void> {
  const file = await open(path, 'r+');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Windows cannot open folders; its file systems keep renames in a journal. */
async function syncFolder(path: string): Promise<void> {
  if (process.platform === 'win32') return;
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

export function deployed(version: DesiredVersion, activatedAtMs: number): DeployedVersion {
  return {
    versionId: version.versionId,
    version: version.version,
    rolloutId: version.rolloutId,
    activatedAt: new Date(activatedAtMs).toISOString(),
    artifacts: version.artifacts.map((artifact) => ({
      ...artifact,
      path: `${version.versionId}/${artifact.fileName}`,
    })),
  };
}
