// Installs Flower for `npm run bench -- peers`, beside the lockfile: nobody who uses Octomil needs it. The next `npm ci`
// removes it.
//
//   node scripts/install-peers.js
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';

const PACKAGES = ['flwr==1.41.0', 'numpy<2.5'];

const folder = resolve(import.meta.dirname, '../node_modules/.peers');
const python = ['/usr/bin/python3', 'python3'].find((name) => spawnSync(name, ['-m', 'venv', '--help']).status === 0);
if (python === undefined) {
  console.error('Flower needs python3 with venv, which is not here');
  process.exit(1);
}
const own = join(folder, 'bin', 'python3');
if (!existsSync(own)) execFileSync(python, ['-m', 'venv', folder], { stdio: 'inherit' });
execFileSync(own, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', ...PACKAGES], {
  stdio: 'inherit',
});
