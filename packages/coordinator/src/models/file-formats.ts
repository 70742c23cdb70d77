import { OctomilError } from '@octomil/shared/errors';
import { DOCUMENT_FORMAT, WEIGHTS_FORMAT } from './registry.js';

const BY_ENDING: Readonly<Record<string, string>> = {
  safetensors: WEIGHTS_FORMAT,
  json: DOCUMENT_FORMAT,
  pt: 'pytorch',
  pth: 'pytorch',
  h5: 'tensorflow',
  keras: 'tensorflow',
  pkl: 'sklearn',
  joblib: 'sklearn',
  ubj: 'xgboost',
  onnx: 'onnx',
  tflite: 'tflite',
  mlmodel: 'coreml',
  gguf: 'gguf',
};
const FORMAT = /^[a-z0-9][a-z0-9._-]{0,39}$/;
const MAX_FORMATS = 16;
const MAX_NAME_LENGTH = 200;

/** By the file's ending; an unknown one is its own format. */
export function formatOf(fileName: string): string {
  const ending = /\.([A-Za-z0-9]{1,40})$/.exec(fileName)?.[1]?.toLowerCase() ?? 'original';
  return BY_ENDING[ending] ?? ending;
}

/** @throws OctomilError `invalid_input` naming what a format may look like */
export function parseFormat(text: string): string {
  const format = text.trim().toLowerCase();
  if (FORMAT.test(format)) return format;
  throw new OctomilError(
    'invalid_input',
    `format ${JSON.stringify(text.slice(0, 60))} is none; write one like pytorch, onnx or safetensors (40 characters at most)`,
  );
}

/** A comma list such as `onnx, tflite`, each once. @throws OctomilError `invalid_input` */
export function parseFormats(text: string): string[] {
  const words = text.split(',').filter((word) => word.trim() !== '');
  const formats = [...new Set(words.map(parseFormat))];
  if (formats.length <= MAX_FORMATS) return formats;
  throw new OctomilError('invalid_input', `formats names ${formats.length}, more than the ${MAX_FORMATS} allowed`);
}

/** The last part of whatever path a client sent, without what no header or file system takes. */
export function plainFileName(fileName: string): string {
  const name = fileName
    .normalize('NFC')
    .replace(/^.*[\\/]/s, '')
    .replaceAll(/[\p{Cc}"]/gu, '')
    .trim()
    .slice(-MAX_NAME_LENGTH)
    // Half a character that the cut left, too.
    .replaceAll(/\p{Cs}/gu, '');
  return /^\.*$/.test(name) ? 'file' : name;
}

/** As a word of an object key: ASCII alone, never hidden, 100 characters at most. */
export function keyWord(fileName: string): string {
  const word = fileName
    .replaceAll(/[^A-Za-z0-9._-]/g, '_')
    .slice(-100)
    .replace(/^\.+/, '');
  return word === '' ? 'file' : word;
}
