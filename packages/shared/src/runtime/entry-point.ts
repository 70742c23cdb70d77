import { fileURLToPath } from 'node:url';

export interface EntryPoint {
  readonly path: string;
  /** Passed explicitly to `fork` and `Worker`, which otherwise inherit the flags of a test runner. */
  readonly execArgv: string[];
}

/**
 * Finds the file of a child process or worker thread beside the calling module.
 *
 * A build runs `name.js`; run from source (tests), the child is `name.ts`, which Node strips of its types itself.
 *
 * @param importMetaUrl `import.meta.url` of the caller
 * @param name file name without its ending, relative to the caller
 */
export function entryPoint(importMetaUrl: string, name: string): EntryPoint {
  const fromSource = importMetaUrl.endsWith('.ts');
  return {
    path: fileURLToPath(new URL(`./${name}${fromSource ? '.ts' : '.js'}`, importMetaUrl)),
    execArgv: fromSource
      ? [
          '--conditions=source',
          '--disable-warning=ExperimentalWarning',
          '--import',
          new URL('../../../../scripts/source-hook.js', import.meta.url).href,
        ]
      : [],
  };
}
