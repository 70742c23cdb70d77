import { runAgent as run } from '@octomil/agent';
import type { Options } from '../program.js';
import { parentGone } from '../terminal/parent.js';

/** Runs the agent until it is stopped. */
export async function runAgent(options: Options): Promise<void> {
  await run({ path: String(options['config']), signal: parentGone() });
}
