import { expect, test } from '@jest/globals';
import { parseArchitecture } from './architecture.js';
import { encodeModelDocument, modelDocument, parseModelDocument } from './document.js';

const document = modelDocument(parseArchitecture({ name: 'mlp', hidden: [3] }), 5);
const altered = (change: object): Uint8Array => new TextEncoder().encode(JSON.stringify({ ...document, ...change }));

test('a document survives its encoding, and lists the weights layer by layer', () => {
  expect(parseModelDocument(encodeModelDocument(document))).toEqual(document);
  expect(document.weightOrder).toEqual(['dense_1/kernel', 'dense_1/bias', 'output/kernel', 'output/bias']);
});

test.each<[string, Uint8Array, RegExp]>([
  ['half a file', encodeModelDocument(document).subarray(0, 100), /not JSON/],
  ['another format', altered({ format: 'onnx' }), /not an octomil-model/],
  ['a newer version', altered({ formatVersion: 2 }), /formatVersion 2; this program reads 1/],
  ['no width', altered({ inputWidth: undefined }), /no inputWidth/],
  ['an unknown architecture', altered({ architecture: 'resnet' }), /"resnet" is not known/],
  ['a model beyond the caps', altered({ inputWidth: 1e9 }), /maxActivations/],
  ['nothing but length', new Uint8Array(9 * 1024 * 1024), /more than the 8388608 allowed/],
])('refused: %s', (_, bytes, message) => {
  expect(() => parseModelDocument(bytes)).toThrow(message);
});

test('weights are inferred anew, whatever the file says', () => {
  expect(parseModelDocument(altered({ weightOrder: ['other'] })).weightOrder).toEqual(document.weightOrder);
});
