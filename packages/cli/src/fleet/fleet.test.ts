import { createHash } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { TrainingEvent } from '@octomil/sdk';
import { decodeWeights } from '@octomil/shared/tensors';
import { type Fleet, GENERATED_TARGET, startFleet } from './fleet.js';

let fleet: Fleet;
beforeAll(async () => {
  fleet = await startFleet({ agents: 3 });
}, 60_000);
afterAll(() => fleet.stop(), 60_000);

const TRAINING = {
  model: 'risk',
  architecture: 'logistic',
  target: GENERATED_TARGET,
  minUpdates: 3,
  seed: 7,
  local: { epochs: 1, batchSize: 32, learningRate: 0.1, optimizer: 'sgd' },
} as const;

test('three sites train three rounds; the version has its lineage, its metrics and the promised bytes', async () => {
  await fleet.registry.ensureModel({ name: 'risk' });
  const events: TrainingEvent[] = [];
  const result = await fleet.federation().train({ ...TRAINING, rounds: 3, onEvent: (event) => events.push(event) });
  expect(result).toMatchObject({ status: 'completed', version: '1.0.0' });
  expect(result.rounds.map((round) => [round.number, round.state])).toEqual([
    [1, 'completed'],
    [2, 'completed'],
    [3, 'completed'],
  ]);
  expect(Object.keys(result.metrics?.sites ?? {}).sort()).toEqual(['site-1', 'site-2', 'site-3']);
  expect(result.metrics?.overall.auc).toBeGreaterThan(0.6);
  expect(events.at(-1)?.type).toBe('end');
  expect(new Set(events.map((event) => event.id)).size).toBe(events.length);

  const pulled = await fleet.registry.pullModel({ model: 'risk', version: '1.0.0' });
  expect(createHash('sha256').update(pulled.bytes).digest('hex')).toBe(result.digest);
  expect(decodeWeights(pulled.bytes).length).toBeGreaterThan(0);
  const version = await fleet.registry.version('risk', '1.0.0');
  expect(version.status).toBe('published');
  expect(version['lineage']).toMatchObject({ strategy: 'fedavg' });
}, 120_000);
