import { loadAgentConfig, openLocalAgent, runAgent as run, runDoctor } from '@octomil/agent';
import type { Options } from '../program.js';
import { print } from '../terminal/output.js';
import { parentGone } from '../terminal/parent.js';

/** Runs the agent until it is stopped. */
export async function runAgent(options: Options): Promise<void> {
  await run({ path: String(options['config']), signal: parentGone() });
}

/** Lets a version go that waits at this site to be activated by hand. */
export async function activate(options: Options, model: string): Promise<void> {
  const { stateDir } = loadAgentConfig({ path: String(options['config']) });
  await (await openLocalAgent(stateDir)).activate(model);
  await print(
    options['json'],
    { model, activated: true },
    () => `${model}: activated as soon as its other conditions hold`,
  );
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
