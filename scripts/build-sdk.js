// The CommonJS half of @octomil/sdk: one bundle for require(), and its types as .d.cts. The ES modules come from tsc, which
// must have run.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const esm = join(root, 'packages/sdk/dist');
const target = join(esm, 'cjs');
/** Copied, so that CommonJS programs of an older TypeScript need no ES module's types to read ours. */
const ROOM = /^@octomil\/(shared|inference)\/(\w+)$/;
const IMPORT = /((?:from|import)\s*\(?\s*)(['"])([^'"]+)\2/g;

/** Where a specifier's types lie, and where their copy goes; undefined for what stays as it is. */
function declarationOf(specifier, from) {
  const [, workspace, room] = ROOM.exec(specifier) ?? [];
  if (workspace !== undefined) return join(root, 'packages', workspace, 'dist', room, 'index.d.ts');
  return specifier.startsWith('.') ? join(dirname(from), specifier.replace(/\.js$/, '.d.ts')) : undefined;
}

function copyOf(declaration) {
  const inSdk = relative(esm, declaration);
  // Of another workspace: packages/NAME/dist/ROOM/… becomes rooms/NAME/ROOM/….
  const place = inSdk.startsWith('..')
    ? relative(join(root, 'packages'), declaration).replace(/^(\w+)[\\/]dist[\\/]/, 'rooms/$1/')
    : inSdk;
  return join(target, place.replace(/\.d\.ts$/, '.d.cts'));
}

/** A declaration and all that it names, as .d.cts. */
function copyTypes(declaration, seen = new Set()) {
  if (seen.has(declaration)) return;
  seen.add(declaration);
  const copy = copyOf(declaration);
  const text = readFileSync(declaration, 'utf8')
    .replace(/^\/\/# sourceMappingURL=.*$/m, '')
    .replace(IMPORT, (whole, before, quote, specifier) => {
      const named = declarationOf(specifier, declaration);
      if (named === undefined) return whole;
      copyTypes(named, seen);
      const path = relative(dirname(copy), copyOf(named))
        .replaceAll('\\', '/')
        .replace(/\.d\.cts$/, '.cjs');
      return `${before}${quote}${path.startsWith('.') ? path : `./${path}`}${quote}`;
    });
  mkdirSync(dirname(copy), { recursive: true });
  writeFileSync(copy, text);
}

export async function buildCommonJs() {
  rmSync(target, { recursive: true, force: true });
  await build({
    entryPoints: [join(esm, 'index.js')],
    outfile: join(target, 'index.cjs'),
    bundle: true,
    platform: 'node',
    format: 'cjs',
    target: 'node20',
    // Training and models on the device are loaded with their first use, as the ES modules that they are.
    external: ['#local-training', '#on-device'],
    sourcemap: true,
    logLevel: 'warning',
  });
  copyTypes(join(esm, 'index.d.ts'));
}

/** For a page: it fails when anything of Node is needed. Defines `octomil`. */
export async function bundleForBrowsers() {
  const { outputFiles } = await build({
    entryPoints: [join(esm, 'index.js')],
    bundle: true,
    platform: 'browser',
    format: 'iife',
    globalName: 'octomil',
    write: false,
    logLevel: 'error',
  });
  return outputFiles[0].text;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await buildCommonJs();
