// Who may import whom, over the workspaces: an arrow against the direction fails here, with the file that draws it.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Everything `package` may import of the others. `coordinator` and `agent` meet in `proto` alone. */
const ALLOWED = {
  proto: [],
  shared: ['proto'],
  inference: ['shared'],
  // Local prediction; the root of the SDK stays REST only.
  sdk: ['shared', 'inference'],
  agent: ['proto', 'shared'],
  coordinator: ['proto', 'shared', 'inference'],
  cli: ['proto', 'shared', 'inference', 'sdk', 'agent', 'coordinator'],
  bench: ['proto', 'shared', 'inference', 'sdk', 'agent', 'coordinator', 'cli'],
};
/** These doors open without the packages named: they are imported by processes that must stay small, or by browsers. */
const LIGHT_DOORS = {
  'packages/shared/src/features/index.ts': ['@tensorflow/', '@duckdb/'],
  'packages/shared/src/training/index.ts': ['@tensorflow/', '@duckdb/'],
  'packages/shared/src/models/index.ts': ['@tensorflow/', '@duckdb/'],
  'packages/shared/src/data/index.ts': ['@duckdb/'],
  'packages/sdk/src/index.ts': ['node:', '@tensorflow/', '@duckdb/', 'undici'],
};
const STATIC_IMPORT = /^\s*(?:import|export)\s+(?!type\b)(?:[^'";]*?\sfrom\s+)?'([^']+)'/gm;
const ANY_IMPORT = /(?:from\s+|import\s*\(\s*|import\s+)'([^']+)'/g;

function* sources(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      if (entry.name !== 'gen') yield* sources(path);
    } else if (entry.name.endsWith('.ts')) yield path;
  }
}

const problems = [];
for (const [name, allowed] of Object.entries(ALLOWED)) {
  const root = name === 'bench' ? 'bench' : join('packages', name);
  for (const file of sources(join(root, 'src'))) {
    for (const [, specifier] of readFileSync(file, 'utf8').matchAll(ANY_IMPORT)) {
      const target = /^@octomil\/([a-z]+)/.exec(specifier)?.[1];
      if (target !== undefined && target !== name && !allowed.includes(target)) {
        problems.push(`${file} imports ${specifier}: ${name} may import ${allowed.join(', ') || 'no other package'}`);
      }
    }
  }
}

/** Everything a door loads when it is imported, following relative imports and our own rooms; `import()` and types do not count. */
function* loadedBy(file, seen = new Set()) {
  if (seen.has(file)) return;
  seen.add(file);
  for (const [, specifier] of readFileSync(file, 'utf8').matchAll(STATIC_IMPORT)) {
    if (specifier.startsWith('.')) yield* loadedBy(join(file, '..', specifier.replace(/\.js$/, '.ts')), seen);
    else if (/^@octomil\/(?:shared|inference)\//.test(specifier)) {
      const [, workspace, room] = specifier.split('/');
      yield* loadedBy(`packages/${workspace}/src/${room}/index.ts`, seen);
    } else yield [file, specifier];
  }
}

for (const [door, forbidden] of Object.entries(LIGHT_DOORS)) {
  for (const [file, specifier] of loadedBy(door)) {
    if (forbidden.some((prefix) => specifier.startsWith(prefix))) {
      problems.push(`${door} loads ${specifier} through ${file}: use import() where it is needed`);
    }
  }
}

for (const problem of problems) console.error(problem);
process.exit(problems.length === 0 ? 0 : 1);
