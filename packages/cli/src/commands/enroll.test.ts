import { expect, test } from '@jest/globals';
import { agentAddress } from './enroll.js';

test.each([
  ['grpc://127.0.0.1:18734', 'http://127.0.0.1:18733/api/v1', 'grpc://127.0.0.1:18734'],
  ['grpcs://octomil.example:9001', 'https://10.0.0.7:8000/api/v1', 'grpcs://octomil.example:9001'],
  ['grpcs://0.0.0.0:8001', 'https://10.0.0.7:8000/api/v1', 'grpcs://10.0.0.7:8001'],
  ['grpcs://[::]:8001', 'https://octomil.example/api/v1', 'grpcs://octomil.example:8001'],
  ['grpc://[fd00::7]:8001', 'http://[fd00::7]:8000/api/v1', 'grpc://[fd00::7]:8001'],
  [undefined, 'https://octomil.example/api/v1', 'grpcs://octomil.example:8001'],
])('an agent is told %s, asked at %s, as %s', (told, apiBase, address) => {
  expect(agentAddress(told, apiBase)).toBe(address);
});
