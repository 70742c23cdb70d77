import { createHash, randomUUID } from 'node:crypto';
import { statSync } from 'node:fs';
import type { Clock } from '@octomil/shared/runtime';
import type { Environment } from '@octomil/shared/storage';
import { locateData } from '../pictures/locate-data.js';
import type { DataSource } from '../source.js';
import type { ListLimits } from './list-source.js';
import { listSource } from './list-source.js';
import { identityOf, versionOf } from './object-version.js';
import { openSource, type SourceFile } from './open-source.js';
import type { Pace } from './paced-client.js';
import { pictureName, pictureOptions } from './picture-source.js';
import { describeObject, openSourceClient } from './source-client.js';
import { isRemoteSource } from './source-scheme.js';
import { parseSourceUrl, type SourceUrl } from './source-url.js';
import { TemporaryCopies } from './temporary-copies.js';

export interface SourceFilesOptions extends ListLimits {
  /** For temporary copies; of this machine and of nobody else. */
  readonly folder: string;
  /** Bytes of all temporary copies together; of large Parquet files only those that were fetched count. */
  readonly maxBytes: number;
  /** Where credentials, endpoints and proxies are read. */
  readonly environment: Environment;
  readonly clock: Clock;
  /** Bounds how fast objects are fetched. Default: as fast as they come. */
  readonly pace?: Pace;
}

export interface AcquireOptions {
  /** Keys (`foldName`) of the columns that will be read; names that the table lacks do no harm. Default all. */
  readonly columns?: readonly string[] | undefined;
  /**
   * With `columns`: no more than so many rows from the first of each file will be read, as for a preview. The reader
   * has to stop there by itself.
   */
  readonly maxRows?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface AcquiredSource {
  /** What any reader of this machine can open. */
  readonly source: DataSource;
  /** Lets go of the temporary copies; safe to repeat. */
  release(): Promise<void>;
}

/**
 * Gives data sources local files: those of this machine as they are, others as temporary copies. A process that holds
 * credentials acquires, and hands what it gets to processes that hold none.
 */
export class SourceFiles {
  readonly #copies: TemporaryCopies;
  readonly #options: SourceFilesOptions;

  private constructor(copies: TemporaryCopies, options: SourceFilesOptions) {
    this.#copies = copies;
    this.#options = options;
  }

  /** Removes what dead processes left in the folder. */
  static async open(options: SourceFilesOptions): Promise<SourceFiles> {
    return new SourceFiles(await TemporaryCopies.open(options), options);
  }

  /**
   * The source with local files. Of a remote Parquet file of which few columns are needed, only their bytes are fetched:
   * reading any other column of what this answers gives nonsense.
   *
   * @throws OctomilError `invalid_input` for a URL that is none; `data_unreadable`, `corrupt_file`, `too_large`,
   * `insufficient_storage`, `network_unavailable`, `request_timeout`, `transfer_incomplete`, `cancelled`
   */
  async acquire(source: DataSource, { columns, maxRows, signal }: AcquireOptions = {}): Promise<AcquiredSource> {
    if (!isRemoteSource(source)) return { source: localSource(source), release: async () => undefined };
    const releases: (() => Promise<void>)[] = [];
    const release = async (): Promise<void> => {
      for (const one of releases) await one();
    };
    try {
      const files: SourceFile[] = [];
      const names: string[] = [];
      for (const url of source.files ?? [source.path]) {
        // That reader takes rows whole.
        const wanted = source.reader === 'parquetjs-lite' ? undefined : columns;
        const opened = await openSource(url, this.#copies, {
          ...this.#options,
          signal,
          columns: wanted,
          maxRows,
          format: source.format,
          ...pictureOptions(source, url, this.#options),
        });
        releases.push(opened.release);
        files.push(...opened.files);
        names.push(...opened.files.map((file) => pictureName(url, file)));
      }
      return {
        source: {
          ...source,
          path: displayOf(source),
          files: files.map(({ path }) => path),
          fileNames: source.images === undefined ? files.map(({ place }) => place) : names,
          digest: hashOf(files.map(({ identity }) => identity)),
        },
        release,
      };
    } catch (error) {
      await release();
      throw error;
    }
  }

  /**
   * Changes when the data may have changed. Asks for sizes and versions only; where the server of a file tells none, it
   * is another every time.
   *
   * @throws OctomilError as {@link acquire}
   */
  async version(source: DataSource, signal?: AbortSignal): Promise<string> {
    if (!isRemoteSource(source)) {
      return hashOf(
        locateData(localSource(source)).files.map(({ path }) => {
          const { ino, size, mtimeMs } = statSync(path);
          return [path, ino, size, mtimeMs];
        }),
      );
    }
    const identities: unknown[] = [];
    for (const url of source.files ?? [source.path]) {
      const parsed = parseSourceUrl(url);
      const client = await openSourceClient(parsed, this.#options.environment);
      try {
        for (const object of await listSource(
          parsed,
          client,
          { ...this.#options, ...pictureOptions(source, url, this.#options) },
          signal,
        )) {
          const place = describeObject(parsed, object.key);
          identities.push(identityOf(place, object.key, versionOf(object) ?? randomUUID()));
        }
      } finally {
        await client.close();
      }
    }
    return hashOf(identities);
  }

  /** Removes all copies; safe to repeat. */
  async close(): Promise<void> {
    await this.#copies.close();
  }
}

/** As people may see it: without signatures. */
function displayOf({ path, files }: DataSource): string {
  // `path` is but a name where files are listed.
  if (files !== undefined && !isRemoteSource({ path })) return path;
  return parseSourceUrl(path).display;
}

/** `file:` URLs are for people and configurations; readers take paths. */
function localSource(source: DataSource): DataSource {
  const { path, files } = source;
  if (![path, ...(files ?? [])].some((one) => /^file:/i.test(one))) return source;
  return { ...source, path: localPath(path), ...(files === undefined ? {} : { files: files.map(localPath) }) };
}

function localPath(text: string): string {
  if (!/^file:/i.test(text)) return text;
  const { key }: SourceUrl = parseSourceUrl(text);
  return key;
}

function hashOf(parts: readonly unknown[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}
