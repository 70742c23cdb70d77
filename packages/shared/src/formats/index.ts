import type { CheckedFile } from './check-file.js';
import type { ConvertedFile, ConvertFileOptions } from './convert-file.js';

export type { CheckedFile, CheckedTensor } from './check-file.js';
export type { ConvertedFile, ConvertFileOptions } from './convert-file.js';
export { type ConvertRequest, convertModel, WRITABLE_FORMATS, type WritableFormat } from './convert-model.js';
export {
  FORMAT_EXTENSIONS,
  FORMAT_HEAD_BYTES,
  formatOfFile,
  isModelFormat,
  MODEL_FORMATS,
  type ModelFormat,
} from './file-format.js';
export { READABLE_FORMATS } from './model-file.js';
export { type NumberArray, readNpy, writeNpy } from './npy.js';
export { ONNX_LAYER_TYPES, writeOnnx } from './onnx/write-onnx.js';
export {
  readTorchZip,
  type TorchReadOptions,
  type TorchStateDict,
  type TorchTensor,
  writeTorchZip,
} from './torch-zip.js';

/** Converts a file of weights; see `convert-file.ts`, which is loaded when it is first needed. */
export async function convertFile(options: ConvertFileOptions): Promise<ConvertedFile> {
  return (await import('./convert-file.js')).convertFile(options);
}

/** Looks into a model file; see `check-file.ts`, which is loaded when it is first needed. */
export async function checkFile(path: string): Promise<CheckedFile> {
  return (await import('./check-file.js')).checkFile(path);
}
