import { parentPort, workerData } from 'node:worker_threads';
import { toOctomilError } from '@octomil/shared/errors';
import { type ConvertFileOptions, convertFile } from '@octomil/shared/formats';

/** Entry point of the thread that `runBuiltIn` starts: one conversion, then it ends. */
try {
  parentPort?.postMessage({ done: await convertFile(workerData as ConvertFileOptions) });
} catch (thrown) {
  parentPort?.postMessage({ error: toOctomilError(thrown).toBody() });
}
