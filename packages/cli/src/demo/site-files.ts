import { mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join, parse, resolve } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { generateHospitals, type Hospital } from './hospitals.js';

/** One site of a federation and the file it trains on. */
export interface SiteFile {
  /** Stem of the file's name; the device identifier as well. */
  readonly name: string;
  readonly path: string;
}

const TABLE_FILE = /\.(csv|tsv|csv\.gz|parquet)$/i;

/**
 * The table files of a folder, one site each, in the order of their names.
 *
 * @throws OctomilError `not_found` when the folder is not there, `invalid_input` with fewer than two files or two of one name
 */
export async function findSiteFiles(folder: string): Promise<SiteFile[]> {
  const root = resolve(folder);
  const kind = await stat(root).catch(() => undefined);
  if (kind?.isDirectory() !== true) {
    throw new OctomilError(
      'not_found',
      `--data ${folder} is not a folder; give one that holds a CSV or Parquet file per site`,
    );
  }
  const files = (await readdir(root)).filter((name) => TABLE_FILE.test(name) && !name.startsWith('.')).sort();
  const sites = files.map((name) => ({ name: parse(name.replace(/\.gz$/i, '')).name, path: join(root, name) }));
  if (sites.length < 2) {
    throw new OctomilError(
      'invalid_input',
      `--data ${folder} holds ${sites.length} table file(s) (${files.join(', ') || 'no .csv, .tsv or .parquet'}); a federation needs two or more, one per site`,
    );
  }
  const twice = sites.find((site, index) => sites.findIndex((other) => other.name === site.name) !== index);
  if (twice !== undefined) {
    throw new OctomilError(
      'invalid_input',
      `two files in ${folder} are called ${twice.name}; each site needs a name of its own`,
    );
  }
  return sites;
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
