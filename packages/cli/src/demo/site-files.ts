import { mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join, parse, resolve } from 'node:path';
import { isRemoteSource, listSource, openSourceClient, parseSourceUrl, type SourceUrl } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import { generateHospitals, type Hospital } from './hospitals.js';

/** One site of a federation and the file it trains on. */
export interface SiteFile {
  /** Stem of the file's name; the device identifier as well. */
  readonly name: string;
  /** Or a URL. */
  readonly path: string;
}

const TABLE_FILE = /\.(csv|tsv|csv\.gz|parquet)$/i;

/**
 * The table files of a folder or of a prefix in a bucket, one site each, in the order of their names.
 *
 * @throws OctomilError `not_found` when the folder is not there, `invalid_input` with fewer than two files or two of one
 * name; as `listSource`
 */
export async function findSiteFiles(folder: string, signal?: AbortSignal): Promise<SiteFile[]> {
  const { files, pathOf } = isRemoteSource({ path: folder }) ? await inBucket(folder, signal) : await inFolder(folder);
  const sites = files.map((name) => ({ name: parse(name.replace(/\.gz$/i, '')).name, path: pathOf(name) }));
  // A URL may end in a signature.
  const [shown = ''] = folder.split('?', 1);
  if (sites.length < 2) {
    throw new OctomilError(
      'invalid_input',
      `--data ${shown} holds ${sites.length} table file(s) (${files.join(', ') || 'no .csv, .tsv or .parquet'}); a federation needs two or more, one per site`,
    );
  }
  const twice = sites.find((site, index) => sites.findIndex((other) => other.name === site.name) !== index);
  if (twice !== undefined) {
    throw new OctomilError(
      'invalid_input',
      `two files in ${shown} are called ${twice.name}; each site needs a name of its own`,
    );
  }
  return sites;
}

interface Found {
  /** Names in order. */
  readonly files: readonly string[];
  readonly pathOf: (name: string) => string;
}

const isTable = (name: string): boolean => TABLE_FILE.test(name) && !/^[._]/.test(name);

async function inBucket(folder: string, signal: AbortSignal | undefined): Promise<Found> {
  const source = parseSourceUrl(folder.replace(/\/?(\?.*)?$/, '/$1'));
  if (source.selects !== 'prefix') {
    throw new OctomilError('invalid_input', '--data takes a prefix of a bucket, below which each site has its file');
  }
  const client = await openSourceClient(source, process.env);
  try {
    const files: string[] = [];
    for (const { key } of await listSource(source, client, {}, signal)) {
      const name = key.slice(source.key.length);
      if (!name.includes('/') && isTable(name)) files.push(name);
    }
    return { files: files.sort(), pathOf: (name) => urlBelow(folder, source, name) };
  } finally {
    await client.close();
  }
}

function urlBelow(folder: string, { place }: SourceUrl, name: string): string {
  if (place.kind === 'bucket' && /^https?:/i.test(folder)) {
    const url = new URL(folder);
    url.pathname = `${url.pathname.replace(/\/$/, '')}/${encodeURIComponent(name)}`;
    return url.href;
  }
  // Brackets make a pattern of a key.
  return `${folder.replace(/\/$/, '')}/${name.replace(/[[*?]/g, '[$&]')}`;
}

async function inFolder(folder: string): Promise<Found> {
  const root = resolve(folder);
  const kind = await stat(root).catch(() => undefined);
  if (kind?.isDirectory() !== true) {
    throw new OctomilError(
      'not_found',
      `--data ${folder} is not a folder; give one that holds a CSV or Parquet file per site, or a prefix such as s3://bucket/sites`,
    );
  }
  return { files: (await readdir(root)).filter(isTable).sort(), pathOf: (name) => join(root, name) };
}

/** Writes the generated hospitals, two as CSV and two as Parquet, to be read like anybody's files. */
export async function writeGeneratedSites(folder: string, seed: number): Promise<SiteFile[]> {
  await mkdir(folder, { recursive: true });
  const sites: SiteFile[] = [];
  for (const hospital of generateHospitals(seed)) {
    const csv = join(folder, `${hospital.name}.csv`);
    await writeFile(csv, toCsv(hospital));
    sites.push({ name: hospital.name, path: hospital.format === 'csv' ? csv : await toParquet(csv) });
  }
  return sites.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** No generated value holds a comma, a quote or a line break. */
function toCsv({ columns, patients }: Hospital): string {
  const rows = patients.map((patient) =>
    columns.map((name) => (patient as Record<string, unknown>)[name] ?? '').join(','),
  );
  return `${[columns.join(','), ...rows].join('\n')}\n`;
}

async function toParquet(csv: string): Promise<string> {
  const { DuckDBInstance } = await import('@duckdb/node-api');
  const path = csv.replace(/\.csv$/, '.parquet');
  const instance = await DuckDBInstance.create(':memory:', {
    threads: '1',
    autoinstall_known_extensions: 'false',
    autoload_known_extensions: 'false',
  });
  const connection = await instance.connect();
  try {
    const quoted = (text: string): string => `'${text.replaceAll("'", "''")}'`;
    await connection.run(`COPY (FROM read_csv(${quoted(csv)}, header = true)) TO ${quoted(path)} (FORMAT parquet)`);
  } finally {
    connection.closeSync();
    instance.closeSync();
  }
  await rm(csv);
  return path;
}
