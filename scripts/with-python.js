// Runs a command with the Python that scripts/install-python.js made first in its PATH.
//
//   node scripts/with-python.js COMMAND [ARGUMENT …]
import { spawn } from 'node:child_process';
import { delimiter, resolve } from 'node:path';

const [command, ...args] = process.argv.slice(2);
const programs = resolve(import.meta.dirname, '../node_modules/.python/bin');
const child = spawn(command ?? 'python3', args, {
  stdio: 'inherit',
  env: { ...process.env, PATH: `${programs}${delimiter}${process.env.PATH ?? ''}` },
});
child.once('error', (error) => {
  console.error(error.message);
  process.exitCode = 1;
});
child.once('exit', (code) => {
  process.exitCode = code ?? 1;
});
