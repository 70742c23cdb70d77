import { expect, test } from '@jest/globals';
import { CommandProcess } from './child-process.js';

test('a process that dies is an error that shows what it said last', async () => {
  const child = new CommandProcess('the agent of basel', ['agent', '--config', '/nowhere/agent.yaml'], {});
  await expect(child.firstLine()).rejects.toMatchObject({
    code: 'internal',
    reason: expect.stringMatching(/the process of the agent of basel ended with exit code 1.*\/nowhere\/agent\.yaml/s),
  });
  await child.stop();
});

test('whoever waits on other work hears of it too', async () => {
  const child = new CommandProcess('it', ['no-such-command'], {});
  await expect(child.orFailed(new Promise(() => undefined))).rejects.toMatchObject({
    reason: expect.stringContaining("unknown command 'no-such-command'"),
  });
  await child.stop();
  await child.stop();
});
