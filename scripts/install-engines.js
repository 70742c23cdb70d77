// Installs the heavy optional peers (llama.cpp, ONNX Runtime) for development and CI, beside the lockfile: `npm ci`
// stays small, and what runs models is there for those who ask. The next `npm ci` removes them.
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const ENGINES = { 'node-llama-cpp': '3.22.1', 'onnxruntime-node': '1.30.0' };
/** Hundreds of megabytes for graphics cards that the tests do not use. */
const LEFT_OUT = [
  'linux-x64-cuda',
  'linux-x64-cuda-ext',
  'linux-x64-vulkan',
  'win-x64-cuda',
  'win-x64-cuda-ext',
  'win-x64-vulkan',
];

const modules = resolve(import.meta.dirname, '../node_modules');
const folder = join(modules, '.engines');
mkdirSync(folder, { recursive: true });
const manifest = {
  private: true,
  dependencies: ENGINES,
  overrides: Object.fromEntries(LEFT_OUT.map((name) => [`@node-llama-cpp/${name}`, 'npm:empty-npm-package@1.0.0'])),
};
writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest, null, 2));
const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
// Both come prebuilt: nothing has to run at installation.
execFileSync(npm, ['install', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: folder, stdio: 'inherit' });
for (const name of Object.keys(ENGINES)) {
  const link = join(modules, name);
  rmSync(link, { recursive: true, force: true });
  symlinkSync(join(folder, 'node_modules', name), link, 'junction');
}
