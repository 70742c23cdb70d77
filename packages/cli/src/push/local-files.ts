import { open, readdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { FORMAT_HEAD_BYTES, formatOfFile, type ModelFormat } from '@octomil/shared/formats';

/** A file of a model on this machine. */
export interface LocalFile {
  readonly path: string;
  /** By its bytes; undefined where they are of no format that is known here: then the coordinator goes by the ending. */
  readonly format: ModelFormat | undefined;
  readonly sizeBytes: number;
}

/** Lie about in folders of models without being one. */
const NOT_IN_FOLDERS: ReadonlySet<string | undefined> = new Set([undefined, 'npy', 'npz']);

/**
 * The file at a path, or the model files in a folder, documents first: what is made of weights needs them.
 *
 * @throws OctomilError `not_found`; `invalid_input` for a folder without models or with two of one format
 */
export async function modelFilesAt(path: string): Promise<LocalFile[]> {
  const found = await stat(path).catch((cause: unknown) => {
    throw new OctomilError('not_found', `there is no file or folder ${path}`, { cause });
  });
  if (!found.isDirectory()) return [await localFile(path)];
  const entries = await readdir(path, { withFileTypes: true });
  const plain = entries.filter((entry) => !entry.name.startsWith('.') && (entry.isFile() || entry.isSymbolicLink()));
  const files: LocalFile[] = [];
  for (const { name } of plain.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const file = await localFile(join(path, name)).catch(() => undefined);
    if (file === undefined || NOT_IN_FOLDERS.has(file.format)) continue;
    const same = files.find(({ format }) => format === file.format);
    if (same !== undefined) {
      throw new OctomilError(
        'invalid_input',
        `${path} has two ${file.format} files, ${basename(same.path)} and ${name}; a version has one, so name the file`,
      );
    }
    files.push(file);
  }
  if (files.length === 0) throw new OctomilError('invalid_input', `${path} has no model file; name the file to push`);
  return files.sort((a, b) => Number(b.format === 'model.json') - Number(a.format === 'model.json'));
}

/** The description of weights that lies beside them: `heart.json` of `heart.safetensors`, else `model.json`. */
export async function documentBeside(path: string): Promise<string | undefined> {
  const stem = basename(path).replace(/\.[^.]*$/, '');
  for (const name of [`${stem}.json`, `${stem}.model.json`, 'model.json']) {
    const candidate = join(dirname(path), name);
    const file = await localFile(candidate).catch(() => undefined);
    if (file?.format === 'model.json') return candidate;
  }
  return undefined;
}

/** @throws OctomilError `invalid_input` for what is no file */
async function localFile(path: string): Promise<LocalFile> {
  const file = await open(path, 'r');
  try {
    const found = await file.stat();
    if (!found.isFile()) throw new OctomilError('invalid_input', `${path} is no file`);
    const { bytesRead, buffer } = await file.read(new Uint8Array(FORMAT_HEAD_BYTES), 0, FORMAT_HEAD_BYTES, 0);
    return { path, format: formatOfFile(path, buffer.subarray(0, bytesRead)), sizeBytes: found.size };
  } finally {
    await file.close();
  }
}
