import { expect, test } from '@jest/globals';
import { GRPC } from '@octomil/shared/errors';
import { fromGrpcError } from './problem.js';

const around = (inner: string): string => `No connection established. Last error: ${inner}. Resolution note: `;

test('an unreachable coordinator is told in the words of the network', () => {
  const { code, reason } = fromGrpcError({
    code: GRPC.UNAVAILABLE,
    details: around('Error: connect ECONNREFUSED 127.0.0.1:9'),
  });
  expect({ code, reason }).toEqual({ code: 'network_unavailable', reason: 'connect ECONNREFUSED 127.0.0.1:9' });
});

test('a port that is not for agents is told as such', () => {
  const { reason } = fromGrpcError({
    code: GRPC.UNAVAILABLE,
    details: around('Protocol error (2026-03-01T10:00:00Z)'),
  });
  expect(reason).toContain('Agents (gRPC)');
});

test('other words stay', () => {
  expect(fromGrpcError({ code: GRPC.UNAVAILABLE, details: 'Connection dropped' }).reason).toBe('Connection dropped');
});
