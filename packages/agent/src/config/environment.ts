interface EnvironmentProblem {
  readonly path: string;
  readonly message: string;
  readonly value?: unknown;
}

type Read = (text: string) => unknown;

const text: Read = (value) => value;
const boolean: Read = (value) => (/^(1|true|yes)$/i.test(value) ? true : /^(0|false|no)$/i.test(value) ? false : value);
const integer: Read = (value) => (/^\d+$/.test(value) ? Number(value) : value);

/** Variable → place in the file. What is set here wins over the file. */
const VARIABLES: Readonly<Record<string, { readonly path: readonly string[]; readonly read: Read }>> = {
  OCTOMIL_COORDINATOR: { path: ['coordinator'], read: text },
  OCTOMIL_ENROLLMENT_TOKEN: { path: ['enrollment_token'], read: text },
  OCTOMIL_ENROLLMENT_TOKEN_FILE: { path: ['enrollment_token_file'], read: text },
  OCTOMIL_DEVICE_IDENTIFIER: { path: ['device_identifier'], read: text },
  OCTOMIL_STATE_DIR: { path: ['state_dir'], read: text },
  OCTOMIL_POLICY_FILE: { path: ['policy'], read: text },
  OCTOMIL_TLS_CA: { path: ['tls', 'ca'], read: text },
  OCTOMIL_TLS_SERVER_NAME: { path: ['tls', 'server_name'], read: text },
  OCTOMIL_PROXY: { path: ['proxy'], read: text },
  OCTOMIL_INSECURE: { path: ['insecure'], read: boolean },
  OCTOMIL_METRICS_HOST: { path: ['metrics', 'host'], read: text },
  OCTOMIL_METRICS_PORT: { path: ['metrics', 'port'], read: integer },
  OCTOMIL_LOG_LEVEL: { path: ['log_level'], read: text },
  OCTOMIL_TRAINER_MEMORY_MB: { path: ['trainer', 'memory_limit_mb'], read: integer },
  OCTOMIL_SOURCE_CACHE_MB: { path: ['source_cache_mb'], read: integer },
  OCTOMIL_MODELS_CACHE_MB: { path: ['models_cache_mb'], read: integer },
};

/** Copies the file's object with the environment's values in it. Anything but an object is a problem. */
export function applyEnvironment(
  raw: unknown,
  environment: Readonly<Record<string, string | undefined>>,
  problems: EnvironmentProblem[],
): Record<string, unknown> {
  let merged: Record<string, unknown> = {};
  if (typeof raw === 'object' && raw !== null && !Array.isArray(raw)) merged = structuredClone(raw) as typeof merged;
  // Without its value: somebody may have named a data file.
  else problems.push({ path: '', message: `the configuration must be a mapping of settings, not ${describe(raw)}` });
  for (const [name, { path, read }] of Object.entries(VARIABLES)) {
    const value = environment[name];
    if (value === undefined || value === '') continue;
    const [first = '', second] = path;
    if (second === undefined) merged[first] = read(value);
    else {
      const inner = merged[first];
      merged[first] = { ...(typeof inner === 'object' && inner !== null ? inner : {}), [second]: read(value) };
    }
  }
  return merged;
}

function describe(raw: unknown): string {
  if (Array.isArray(raw)) return 'a list';
  return raw === null ? 'empty' : `a ${typeof raw}`;
}
