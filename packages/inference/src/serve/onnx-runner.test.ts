import { createRequire } from 'node:module';
import { expect, test } from '@jest/globals';
import { modelDocument } from '@octomil/shared/models';
import { silentLogger } from '@octomil/shared/runtime';
import { openOnnxRunner } from './onnx-runner.js';

function hasOnnx(): boolean {
  try {
    createRequire(import.meta.url).resolve('onnxruntime-node');
    return true;
  } catch {
    return false;
  }
}

(hasOnnx() ? test : test.skip)(
  'a stop is no failure of the model that was asked (needs onnxruntime-node)',
  async () => {
    const runner = openOnnxRunner(silentLogger);
    const document = modelDocument({ name: 'logistic', output: { kind: 'binary' } }, 2);
    const asked = runner?.run('/none.onnx', document, [[1, 2]], undefined);
    const outcome = expect(asked).rejects.toMatchObject({ code: 'cancelled' });
    await runner?.stop();
    await outcome;
  },
);
