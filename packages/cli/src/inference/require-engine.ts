import { createRequire } from 'node:module';
import { OctomilError } from '@octomil/shared/errors';

/**
 * Finds out before anything is loaded or pulled.
 *
 * @param resolve finds a package, or throws
 * @throws OctomilError `runtime_unavailable`, with how to install it, where node-llama-cpp is not there
 */
export function requireEngine(resolve: (name: string) => unknown = createRequire(import.meta.url).resolve): void {
  try {
    resolve('node-llama-cpp');
  } catch (cause) {
    throw new OctomilError(
      'runtime_unavailable',
      'models run in llama.cpp, which is not installed; install it beside Octomil: npm install node-llama-cpp (in its own repository: npm run engines)',
      { cause },
    );
  }
}
