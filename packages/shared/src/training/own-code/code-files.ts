import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { copyFile, mkdir, readdir, realpath, stat, symlink } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import type { OwnCode } from './own-code.js';

/** Of one trainer's code. A folder with more is surely not code alone. */
const MAX_FILES = 10_000;
const MAX_BYTES = 1_073_741_824;
/** Made by tools, or installed packages: like an interpreter they are the administrator's, and no part of the digest. */
const LEFT_OUT: ReadonlySet<string> = new Set(['.git', '__pycache__', 'node_modules']);

export interface CodeFile {
  /** As it is called in the digest, with `/`. */
  readonly name: string;
  readonly sha256: string;
  readonly sizeBytes: number;
}

export interface CodeListing {
  /** Hex, over the command or module and the contents of all files. */
  readonly sha256: string;
  readonly files: readonly CodeFile[];
  /** The command with the names of its files as they are to be run; for a module its file alone. */
  readonly arguments: readonly string[];
}

interface FoundFile {
  readonly name: string;
  readonly path: string;
  /** Run where it is: an interpreter of a virtual environment, or a tool of an installed package, would not work elsewhere. */
  readonly inPlace: boolean;
}

/**
 * Reads a trainer's code and its digest. With `into` the files are copied there first, and the digest and the arguments are
 * those of the copies: what is run is then what was measured, whatever happens to the originals.
 *
 * The digest is SHA-256 over the JSON of `[formatVersion, command or module, [[name, SHA-256], …] by name]`.
 *
 * @throws OctomilError `config_invalid` when a file is missing or a link to a folder, or the folder is too large
 */
export async function readCode(code: OwnCode, into?: string): Promise<CodeListing> {
  const { found, asked } = await findFiles(code);
  const files: CodeFile[] = [];
  const placed = new Map<string, string>();
  let totalBytes = 0;
  for (const { name, path, inPlace } of found) {
    const { size } = await stat(path);
    totalBytes += size;
    if (totalBytes > MAX_BYTES) throw invalid(code, `is larger than ${MAX_BYTES} bytes; name a folder of code alone`);
    let at = path;
    if (into !== undefined && !inPlace) {
      at = join(into, name);
      await mkdir(dirname(at), { recursive: true });
      await copyFile(path, at);
    }
    placed.set(path, at);
    files.push({ name, sha256: await sha256OfFile(at), sizeBytes: size });
  }
  if (into !== undefined) await linkPackages(code.root, into);
  const { command, module } = code;
  const words = command === undefined ? ['module', module] : ['command', ...command];
  const digested = JSON.stringify([1, words, files.map(({ name, sha256 }) => [name, sha256])]);
  return {
    sha256: createHash('sha256').update(digested).digest('hex'),
    files,
    arguments: asked.map((word) => (typeof word === 'string' ? word : (placed.get(word.path) ?? word.path))),
  };
}

/** Why code may not run, with the digest that would have to be allowed. */
export function notAllowed(name: string, sha256: string): OctomilError {
  return new OctomilError(
    'policy_denied',
    `this site's policy does not allow the code of trainer "${name}" as it is now: its digest is ${sha256}; the site's owner can add it to the policy's code.allow`,
    { details: { missing: 'code', trainer: name, sha256 } },
  );
}

/** The files by name, and the command's words: a file where a word names one. */
async function findFiles(code: OwnCode): Promise<{ found: FoundFile[]; asked: (string | FoundFile)[] }> {
  const found = new Map<string, FoundFile>();
  const asked: (string | FoundFile)[] = [];
  for (const [index, word] of (code.command ?? [code.module ?? '']).entries()) {
    // A bare program name is looked up in PATH.
    const file =
      index === 0 && code.module === undefined && !word.includes('/') ? undefined : await fileOf(code, word, index);
    if (file === undefined && (code.module !== undefined || (index === 0 && word.includes('/')))) {
      throw invalid(code, `has no file ${word}`);
    }
    asked.push(file ?? word);
    if (file !== undefined) found.set(file.path, file);
  }
  if (code.wholeFolder) {
    for (const path of await filesUnder(code, code.root)) {
      if (!found.has(path)) found.set(path, { name: nameIn(code.root, path), path, inPlace: false });
    }
  }
  return { found: [...found.values()].sort((a, b) => (a.name < b.name ? -1 : 1)), asked };
}

async function fileOf(code: OwnCode, word: string, index: number): Promise<FoundFile | undefined> {
  const path = resolve(code.root, word);
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile() !== true) return undefined;
  const name = nameIn(code.root, path);
  if (!name.startsWith('../') && !isAbsolute(name)) {
    return { name, path, inPlace: name.split('/').includes('node_modules') };
  }
  return { name: `outside/${index}/${basename(path)}`, path, inPlace: index === 0 };
}

async function filesUnder(code: OwnCode, folder: string): Promise<string[]> {
  const files: string[] = [];
  const waiting = [folder];
  for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
    for (const entry of await readdir(at, { withFileTypes: true })) {
      if (LEFT_OUT.has(entry.name)) continue;
      const path = join(at, entry.name);
      if (entry.isDirectory()) waiting.push(path);
      else if (entry.isFile() || (await stat(path).catch(() => undefined))?.isFile() === true) files.push(path);
      else throw invalid(code, `holds ${nameIn(folder, path)}, which is neither a file nor a folder`);
      if (files.length > MAX_FILES)
        throw invalid(code, `holds more than ${MAX_FILES} files; name a folder of code alone`);
    }
  }
  return files;
}

/** Packages beside the code stay where they are: Node finds them from the copy through a link. */
async function linkPackages(root: string, into: string): Promise<void> {
  for (let folder = root; ; folder = dirname(folder)) {
    const packages = await realpath(join(folder, 'node_modules')).catch(() => undefined);
    if (packages !== undefined) {
      await mkdir(into, { recursive: true });
      await symlink(packages, join(into, 'node_modules'), 'junction');
      return;
    }
    if (folder === dirname(folder)) return;
  }
}

async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

const nameIn = (root: string, path: string): string => relative(root, path).split(sep).join('/');

function invalid(code: OwnCode, what: string): OctomilError {
  return new OctomilError('config_invalid', `the code of trainer "${code.name}" ${what}`);
}
