import { existsSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { AgentConfig } from '../config/agent-config.js';
import type { Policy } from './policy.js';

type Settings = Pick<AgentConfig, 'policy' | 'stateDir'>;

/** The policy with the pause that `octomil agent pause` set since the start. */
export function policyNow({ policy, stateDir }: Settings): Policy {
  return existsSync(markerOf(stateDir)) ? { ...policy, paused: true } : policy;
}

/** Refuses, or no longer refuses, every assignment from now on; a running agent heeds it with the next one. */
export async function setPaused(stateDir: string, paused: boolean): Promise<void> {
  if (!paused) return rm(markerOf(stateDir), { force: true });
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  await writeFile(markerOf(stateDir), '', { mode: 0o600 });
}

const markerOf = (stateDir: string): string => join(stateDir, 'paused');
