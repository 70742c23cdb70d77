import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { OctomilError } from '@octomil/shared/errors';
import { transcribeFile } from '../inference/transcription.js';
import type { Options } from '../program.js';
import { interruptible } from '../terminal/interrupt.js';
import { print } from '../terminal/output.js';

/** Writes down what is said in a recording. */
export async function transcribe(options: Options, file: string): Promise<void> {
  const path = resolve(file);
  const found = await stat(path).catch(() => undefined);
  if (!found?.isFile()) throw new OctomilError('not_found', `there is no file ${path}`);
  const interrupt = interruptible();
  try {
    const { language } = options;
    const transcript = await transcribeFile(path, {
      environment: process.env,
      model: String(options['model']),
      language: typeof language === 'string' ? language : undefined,
      timeoutMs: Number(options['timeout']) * 1_000,
      signal: interrupt.signal,
    });
    await print(options['json'], transcript, () => transcript.text);
  } finally {
    interrupt.release();
  }
}
