import { createRequire } from 'node:module';

/** Whether node-llama-cpp is installed; tests that need it are skipped by name where it is not. */
export function hasLlama(): boolean {
  try {
    createRequire(import.meta.url).resolve('node-llama-cpp');
    return true;
  } catch {
    return false;
  }
}
