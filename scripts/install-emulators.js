// Installs servers that speak the clouds' protocols (Azurite, versitygw, fake-gcs-server) for development and CI, beside
// the lockfile: nobody who uses Octomil needs them. The next `npm ci` removes them.
//
//   node scripts/install-emulators.js
//
// Two of them are Go programs; without Go (or with OCTOMIL_CLOUDS=without-go) they are left out by name: s3rver stands in
// for versitygw, and scripts/gcs-fake.js, which needs no installing, for fake-gcs-server.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

/** Azurite 3.35 is the last whose dependencies install everywhere; `--skipApiVersionCheck` makes it take newer clients. */
const NPM = { azurite: '3.35.0' };
const GO = {
  versitygw: 'github.com/versity/versitygw/cmd/versitygw@v1.8.0',
  'fake-gcs-server': 'github.com/fsouza/fake-gcs-server@v1.56.1',
};

const folder = resolve(import.meta.dirname, '../node_modules/.emulators');
const programs = join(folder, 'bin');
mkdirSync(programs, { recursive: true });

const hasGo = process.env.OCTOMIL_CLOUDS !== 'without-go' && spawnSync('go', ['version']).status === 0;
if (hasGo) {
  for (const [name, module] of Object.entries(GO)) {
    if (existsSync(join(programs, name))) continue;
    const made = spawnSync('go', ['install', module], { stdio: 'inherit', env: { ...process.env, GOBIN: programs } });
    if (made.status !== 0) console.error(`left out: ${name} (go install ${module} failed)`);
  }
} else console.error('left out: versitygw and fake-gcs-server (no Go)');

const packages = { ...NPM, ...(hasGo && existsSync(join(programs, 'versitygw')) ? {} : { s3rver: '3.7.1' }) };
writeFileSync(join(folder, 'package.json'), JSON.stringify({ private: true, dependencies: packages }, null, 2));
const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
execFileSync(npm, ['install', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: folder, stdio: 'inherit' });
