import { createHash } from 'node:crypto';
import { OctomilError } from '@octomil/shared/errors';

export const MANIFEST_FILE = 'manifest.json';
export const OBJECT_LIST_FILE = 'objects.ndjson';
const FORMAT = 'octomil-backup';
const FORMAT_VERSION = 1;

/** A file of a backup, by its path inside it. */
export interface Part {
  readonly file: string;
  readonly size_bytes: number;
  /** Hexadecimal. */
  readonly sha256: string;
}

export interface TablePart extends Part {
  readonly name: string;
  readonly columns: readonly string[];
  readonly rows: number;
}

/** What a backup holds. Written last: a folder without it is no backup. */
export interface Manifest {
  readonly format: typeof FORMAT;
  readonly format_version: number;
  readonly created_at: string;
  readonly coordinator_version: string;
  readonly database: 'postgres' | 'pglite';
  /** The schema: names of the migrations, in order. */
  readonly migrations: readonly string[];
  /** One JSON object per line and row, in the order of the primary key. */
  readonly tables: readonly TablePart[];
  /** The list of objects: key, size and digest of one per line. Each lies under `objects/` by its key. */
  readonly objects: Part & { readonly count: number; readonly total_bytes: number };
  /** Named by rows, and not in the store when the backup was made. */
  readonly missing_objects: readonly string[];
}

export interface ObjectLine {
  readonly key: string;
  readonly size_bytes: number;
  readonly sha256: string;
}

export function manifestOf(content: Omit<Manifest, 'format' | 'format_version'>): Manifest {
  return { format: FORMAT, format_version: FORMAT_VERSION, ...content };
}

/** With a digest of itself at its end. */
export function manifestText(manifest: Manifest): string {
  return `${JSON.stringify({ ...manifest, manifest_sha256: digest(manifest) }, null, 2)}\n`;
}

/** @throws OctomilError `corrupt_file` for anything else than an unharmed manifest, `schema_newer` for a newer format */
export function parseManifest(text: string): Manifest {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw damaged(MANIFEST_FILE, 'it is not JSON', error);
  }
  if (typeof parsed !== 'object' || parsed === null || !('format' in parsed) || parsed.format !== FORMAT) {
    throw damaged(MANIFEST_FILE, 'it is not the manifest of a backup');
  }
  const { manifest_sha256: said, ...manifest } = parsed as Manifest & { manifest_sha256?: unknown };
  if (manifest.format_version > FORMAT_VERSION) {
    throw new OctomilError(
      'schema_newer',
      `the backup has format ${manifest.format_version}, and this build reads up to ${FORMAT_VERSION}; restore with the version that made it (${manifest.coordinator_version})`,
    );
  }
  if (said !== digest(manifest)) throw damaged(MANIFEST_FILE, 'its digest does not match its content');
  return manifest;
}

/** `part` is the path inside the backup. */
export function damaged(part: string, why: string, cause?: unknown): OctomilError {
  return new OctomilError('corrupt_file', `the backup's part ${part} is damaged: ${why}; take another backup`, {
    details: { part },
    ...(cause === undefined ? {} : { cause }),
  });
}

function digest(manifest: Manifest): string {
  return createHash('sha256').update(JSON.stringify(manifest)).digest('hex');
}
