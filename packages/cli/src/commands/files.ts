import { stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { ModelRegistry } from '@octomil/sdk';
import { checkFile, convertFile, FORMAT_EXTENSIONS, type ModelFormat } from '@octomil/shared/formats';
import { connection } from '../access/connect.js';
import type { Options } from '../program.js';
import { documentBeside } from '../push/local-files.js';
import { interruptible } from '../terminal/interrupt.js';
import { bytesText, fields, print, table } from '../terminal/output.js';
import { transferBar } from '../terminal/transfer-bar.js';
import { requirePlaceFor } from '../terminal/write-file.js';

/** Downloads a file of a version, checked against its digest; one that was cut off goes on. */
export async function pull({ version, format, output, json }: Options, model: string): Promise<void> {
  const path = String(output ?? '.');
  if (!(await isFolder(path))) await requirePlaceFor(path);
  const registry = new ModelRegistry(await connection());
  const { signal, release } = interruptible();
  const bar = transferBar(model);
  try {
    const pulled = await registry.pullModelToPath({
      model,
      version: String(version ?? 'latest'),
      path,
      signal,
      onProgress: bar.show,
      ...(format === undefined ? {} : { format: String(format) }),
    });
    bar.end();
    const result = { path: pulled.path, digest: pulled.digest, bytes: pulled.sizeBytes };
    await print(json, result, () => `${result.path}\n${result.bytes} bytes, SHA-256 ${result.digest}`);
  } finally {
    bar.end();
    release();
  }
}

/** Converts weights into another format, on this machine. */
export async function convert({ to, output, document, json }: Options, path: string): Promise<void> {
  const format = String(to) as ModelFormat;
  const name = `${basename(path).replace(/\.[^.]*$/, '')}.${FORMAT_EXTENSIONS[format]}`;
  const target = String(output ?? '.');
  const outputPath = (await isFolder(target)) ? join(target, name) : target;
  await requirePlaceFor(outputPath);
  const documentPath = document === undefined ? await documentBeside(path) : String(document);
  const converted = await convertFile({
    inputPath: path,
    outputPath,
    to: format,
    ...(documentPath === undefined ? {} : { documentPath }),
  });
  await print(
    json,
    { path: outputPath, ...converted },
    () =>
      `${outputPath}\n${converted.from} to ${converted.to}, ${converted.parameters} parameters, ` +
      `${converted.sizeBytes} bytes, SHA-256 ${converted.sha256}`,
  );
}

/** Looks into a model file without running anything of it. @returns 1 when something is wrong with it */
export async function check({ json }: Options, path: string): Promise<number> {
  const found = await checkFile(path);
  const { tensors, problems, format, sizeBytes, ...rest } = found;
  await print(json, found, async () => {
    const summary = fields({ format: format ?? 'unknown', size: bytesText(sizeBytes), ...rest });
    const listed = await table(tensors, [
      { title: 'Tensor', value: (row) => row.name },
      { title: 'Type', value: (row) => row.dtype },
      { title: 'Shape', value: (row) => row.shape.join('×') || 'scalar' },
      { title: 'Parameters', value: (row) => row.parameters, align: 'right' },
    ]);
    const wrong = problems.map((problem) => `PROBLEM  ${problem}`);
    return [summary, ...(tensors.length === 0 ? [] : ['', listed]), ...(wrong.length === 0 ? [] : ['', ...wrong])].join(
      '\n',
    );
  });
  return problems.length === 0 ? 0 : 1;
}

async function isFolder(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isDirectory() === true;
}
