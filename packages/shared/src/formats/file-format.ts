/** Names of formats, as the API and the command line spell them. `model.json` and `npz`, `npy` are ours to add. */
export const MODEL_FORMATS = [
  'pytorch',
  'tensorflow',
  'onnx',
  'sklearn',
  'xgboost',
  'tflite',
  'coreml',
  'safetensors',
  'gguf',
  'model.json',
  'npz',
  'npy',
] as const;

export type ModelFormat = (typeof MODEL_FORMATS)[number];

/** Bytes of a file's start that {@link formatOfFile} makes use of. */
export const FORMAT_HEAD_BYTES = 512;

/** The usual ending of a file of a format, without the dot. */
export const FORMAT_EXTENSIONS: Readonly<Record<ModelFormat, string>> = {
  pytorch: 'pt',
  tensorflow: 'h5',
  onnx: 'onnx',
  sklearn: 'pkl',
  xgboost: 'ubj',
  tflite: 'tflite',
  coreml: 'mlmodel',
  safetensors: 'safetensors',
  gguf: 'gguf',
  'model.json': 'json',
  npz: 'npz',
  npy: 'npy',
};

export function isModelFormat(value: unknown): value is ModelFormat {
  return typeof value === 'string' && (MODEL_FORMATS as readonly string[]).includes(value);
}

const TORCH_ENDINGS = new Set(['pt', 'pth', 'bin', 'ckpt']);
const XGBOOST_ENDINGS = new Set(['ubj', 'xgb', 'bst']);
const LONGEST_SAFETENSORS_HEADER = 100 * 1024 * 1024;

/**
 * Tells a file's format by its first bytes. The name only decides where bytes do not: both ONNX and Core ML are bare
 * protobuf, and a bare pickle is PyTorch's old format or scikit-learn's.
 *
 * @param name file name or path
 * @param head the first {@link FORMAT_HEAD_BYTES} of the file, or the whole of a shorter one
 * @returns undefined when nothing fits: the name alone is never believed
 */
export function formatOfFile(name: string, head: Uint8Array): ModelFormat | undefined {
  const ending = /\.([A-Za-z0-9]+)$/.exec(name)?.[1]?.toLowerCase() ?? '';
  const text = Buffer.from(head.subarray(0, FORMAT_HEAD_BYTES)).toString('latin1');
  if (text.startsWith('GGUF')) return 'gguf';
  if (text.startsWith('\x89HDF\r\n\x1a\n')) return 'tensorflow';
  if (text.startsWith('\x93NUMPY')) return 'npy';
  if (text.slice(4, 8) === 'TFL3') return 'tflite';
  if (text.startsWith('PK\x03\x04')) return formatOfZip(text, ending);
  if (isSafetensors(head, text)) return 'safetensors';
  // PROTO, then the protocol's version.
  if (head[0] === 0x80 && isBetween(head[1], 2, 5)) return TORCH_ENDINGS.has(ending) ? 'pytorch' : 'sklearn';
  if (/^\s*\{/.test(text)) return formatOfJson(text);
  if (text.startsWith('binf') || (text.startsWith('{L') && XGBOOST_ENDINGS.has(ending))) return 'xgboost';
  return formatOfProtobuf(head, ending);
}

/** By the name of the zip's first entry, which lies in its local header (APPNOTE.TXT 4.3.7). */
function formatOfZip(text: string, ending: string): ModelFormat | undefined {
  const nameBytes = text.charCodeAt(26) + text.charCodeAt(27) * 256;
  const first = text.slice(30, 30 + nameBytes);
  if (/(^|\/)data\.pkl$/.test(first)) return 'pytorch';
  if (first.endsWith('.npy')) return 'npz';
  if (first.includes('.mlpackage/') || first === 'Manifest.json') return 'coreml';
  if (ending === 'keras') return 'tensorflow';
  return TORCH_ENDINGS.has(ending) ? 'pytorch' : undefined;
}

function isSafetensors(head: Uint8Array, text: string): boolean {
  if (head.length < 10 || text[8] !== '{') return false;
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  return view.getUint32(4, true) === 0 && view.getUint32(0, true) <= LONGEST_SAFETENSORS_HEADER;
}

function formatOfJson(text: string): ModelFormat | undefined {
  if (text.includes('"octomil-model"')) return 'model.json';
  // A universal-binary-JSON model begins with `{L` and a length, so the key is searched for.
  return text.includes('learner') ? 'xgboost' : undefined;
}

/** Field 1 is a small version number in both; Core ML's field 2 is a description, ONNX's the producer's name. */
function formatOfProtobuf(head: Uint8Array, ending: string): ModelFormat | undefined {
  // Fields 2 to 8 with a length, as every second field of the two is.
  const second = head[2] ?? 0;
  if (head[0] !== 0x08 || !isBetween(head[1], 1, 31) || !isBetween(second, 0x12, 0x42) || second % 8 !== 2) {
    return undefined;
  }
  return ending === 'mlmodel' ? 'coreml' : 'onnx';
}

function isBetween(byte: number | undefined, low: number, high: number): boolean {
  return byte !== undefined && byte >= low && byte <= high;
}
