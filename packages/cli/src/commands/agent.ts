import { loadAgentConfig, runAgent as run, runDoctor } from '@octomil/agent';
import type { Options } from '../program.js';
import { print } from '../terminal/output.js';
import { parentGone } from '../terminal/parent.js';

/** Runs the agent until it is stopped. */
export async function runAgent(options: Options): Promise<void> {
  await run({ path: String(options['config']), signal: parentGone() });
}

/** Prints what is well and what is not. @returns 1 when something is not */
export async function doctor(options: Options): Promise<number> {
  const checks = await runDoctor(loadAgentConfig({ path: String(options['config']) }));
  await print(options['json'], checks, () =>
    checks
      .map(({ ok, check, detail, hint }) => {
        const mark = ok ? 'ok  ' : 'FAIL';
        return `${mark}  ${check}: ${detail}${hint === '' ? '' : `\n      ${hint}`}`;
      })
      .join('\n'),
  );
  return checks.every((check) => check.ok) ? 0 : 1;
}
