import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ActivePointer } from '../deployments/active-pointer.js';
import type { Bench } from './agent-under-test.js';

/** A version of model "risk" whose files the coordinator has. */
export function versionOn({ coordinator }: Bench, name: string, weights: Buffer, rolloutId = 1n) {
  const file = (fileName: string, format: string, bytes: Buffer) => ({
    fileName,
    format,
    ...coordinator.addObject(bytes),
  });
  return {
    modelId: 'm1',
    modelName: 'risk',
    versionId: `v-${name}`,
    version: name,
    rolloutId,
    activation: 'immediate',
    artifacts: [
      file('model.json', 'model.json', Buffer.from('{}')),
      file('weights.safetensors', 'safetensors', weights),
    ],
  };
}

/** `active.json` as any program on the machine reads it. */
export async function pointerOf(bench: Bench): Promise<ActivePointer> {
  return JSON.parse(await readFile(join(bench.stateDir, 'deployed/m1/active.json'), 'utf8')) as ActivePointer;
}
