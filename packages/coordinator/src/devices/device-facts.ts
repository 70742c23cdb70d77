/** What a published client may say of its machine, as far as it is kept: numbers, truth values and short texts. */
const KEPT = [
  'platform',
  'os_version',
  'sdk',
  'sdk_version',
  'app_id',
  'app_version',
  'manufacturer',
  'model',
  'cpu_architecture',
  'gpu_available',
  'total_memory_mb',
  'available_storage_mb',
  'battery_pct',
  'battery_level',
  'charging',
  'network_type',
  'locale',
  'region',
  'timezone',
  'python_version',
];
const MAX_TEXT_LENGTH = 200;
const MAX_FEATURES = 2000;
const MAX_FEATURE_CHARACTERS = 32_768;

/**
 * The facts in the body of a registration or heartbeat, from its top level, `metadata` and `capabilities`, and the
 * `feature_schema`: the columns that the client trains on. Anything else, longer or nested, is left out.
 */
export function factsOf(body: unknown): Record<string, unknown> {
  const top = object(body);
  const layers = [object(top['metadata']), object(top['capabilities']), top];
  const facts: Record<string, unknown> = {};
  for (const layer of layers) {
    for (const name of KEPT) {
      const value = Object.hasOwn(layer, name) ? layer[name] : undefined;
      if (isKept(value)) facts[name] = value;
    }
  }
  const features = top['feature_schema'];
  if (Array.isArray(features) && features.length > 0 && features.length <= MAX_FEATURES) {
    const names = features.filter((name): name is string => typeof name === 'string' && isText(name));
    if (names.length === features.length && names.join('').length <= MAX_FEATURE_CHARACTERS) {
      facts['feature_schema'] = names;
    }
  }
  return facts;
}

function object(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

function isKept(value: unknown): boolean {
  return typeof value === 'boolean' || (typeof value === 'number' && Number.isFinite(value)) || isText(value);
}

/** Half a surrogate pair is JSON, but no text for the database. */
function isText(value: unknown): boolean {
  return typeof value === 'string' && value.length <= MAX_TEXT_LENGTH && value.isWellFormed();
}
