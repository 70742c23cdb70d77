// Installs the Python packages that examples and tests need (safetensors, pyarrow; beside them torch and scikit-learn
// where the system has them), for development and CI, into a folder beside the lockfile: nobody who uses Octomil needs
// them. The next `npm ci` removes them.
//
//   node scripts/install-python.js
//
// torch comes from the system (Debian: python3-torch) because the one that pip brings takes gigabytes.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';

const PACKAGES = ['safetensors==0.5.3', 'pyarrow==21.0.0'];

const folder = resolve(import.meta.dirname, '../node_modules/.python');
/** The system's own, which sees the system's packages, before one that somebody else installed. */
const python = ['/usr/bin/python3', 'python3'].find((name) => spawnSync(name, ['-m', 'venv', '--help']).status === 0);
if (python === undefined) {
  console.error('left out: Python packages (no python3 with venv here)');
  process.exit(1);
}
const own = join(folder, 'bin', 'python3');
if (!existsSync(own)) execFileSync(python, ['-m', 'venv', '--system-site-packages', folder], { stdio: 'inherit' });
execFileSync(own, ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', ...PACKAGES], {
  stdio: 'inherit',
});
for (const name of ['torch', 'sklearn']) {
  if (spawnSync(own, ['-c', `import ${name}`]).status !== 0) console.error(`left out: ${name} (not installed here)`);
}
