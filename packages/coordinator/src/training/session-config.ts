import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { type FeatureHints, parseHints, parseTargetRule, refuseTargetHints } from '@octomil/shared/features';
import { type Architecture, parseArchitecture } from '@octomil/shared/models';
import {
  type LocalOptions,
  type Personalization,
  parseLocalOptions,
  parsePersonalization,
  requireRowsPerStep,
  TRAINER_NAME_PATTERN,
} from '@octomil/shared/training';
import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';
import { DEFAULT_STRATEGY, strategyByName } from '../aggregation/strategies.js';
import { parseVersion } from '../models/version-number.js';
import { MAX_LOOKED_AT } from './selection.js';

const Name = Type.String({ minLength: 1, maxLength: 200 });
const OrNull = <T extends Type.TSchema>(schema: T) => Type.Optional(Type.Union([schema, Type.Null()]));

/** Progress is kept once a second, and a lease must survive a few reports that are lost. */
export const NO_PROGRESS_MINIMUM_SECONDS = 5;

/** Body of `POST /api/v1/training/sessions`. Null stands for "not given", as the published clients send it. */
export const SessionBody = Type.Object(
  {
    model_id: OrNull(Name),
    model: OrNull(Name),
    federation: OrNull(Name),
    // Makes the federation of this name with the session, where there is none.
    create_federation: OrNull(Type.Boolean()),
    strategy: OrNull(Name),
    algorithm: OrNull(Name),
    strategy_options: OrNull(Type.Record(Type.String(), Type.Unknown())),
    rounds: OrNull(Type.Integer({ minimum: 1, maximum: 10_000 })),
    min_updates: OrNull(Type.Integer({ minimum: 1, maximum: 1_000_000 })),
    over_selection: OrNull(Type.Number({ minimum: 1, maximum: 10 })),
    base_version: OrNull(Name),
    new_version: OrNull(Name),
    publish: OrNull(Type.Boolean()),
    update_format: OrNull(Type.Union([Type.Literal('delta'), Type.Literal('weights')])),
    architecture: OrNull(Type.Union([Type.String(), Type.Record(Type.String(), Type.Unknown())])),
    target: OrNull(Name),
    input_width: OrNull(Type.Integer({ minimum: 1, maximum: 10_000_000 })),
    data_set: OrNull(Type.String({ maxLength: 200 })),
    missing_markers: OrNull(Type.Record(Type.String(), Type.Array(Type.Union([Type.String(), Type.Number()])))),
    exclude: OrNull(Type.Array(Type.String(), { maxItems: 10_000 })),
    // How columns are meant, where their values do not say it.
    features: OrNull(
      Type.Object(
        { hints: OrNull(Type.Record(Type.String(), Type.Record(Type.String(), Type.Unknown()))) },
        { additionalProperties: false },
      ),
    ),
    // `auto`: the sites describe and a spec is merged. `confirmed`, or the id of a proposal: the one a person confirmed.
    feature_spec: OrNull(Name),
    local: OrNull(Type.Record(Type.String(), Type.Unknown())),
    // A method's name, or an object with the method and its settings.
    personalization: OrNull(Type.Union([Type.String(), Type.Record(Type.String(), Type.Unknown())])),
    // tfjs, echo, or what the sites call code of their own.
    trainer: OrNull(Type.String({ pattern: TRAINER_NAME_PATTERN })),
    seed: OrNull(Type.Integer({ minimum: 0, maximum: 2 ** 31 - 1 })),
    round_deadline_seconds: OrNull(Type.Number({ minimum: 1, maximum: 30 * 86_400 })),
    no_progress_seconds: OrNull(Type.Number({ minimum: NO_PROGRESS_MINIMUM_SECONDS, maximum: 86_400 })),
    holdout: OrNull(
      Type.Object(
        {
          share: OrNull(Type.Number({ minimum: 0, maximum: 0.9 })),
          entity_column: OrNull(Name),
        },
        { additionalProperties: false },
      ),
    ),
    selector: OrNull(Type.Record(Type.String(), Type.String())),
    max_round_retries: OrNull(Type.Integer({ minimum: 0, maximum: 100 })),
    max_update_norm: OrNull(Type.Number({ exclusiveMinimum: 0 })),
    max_share: OrNull(Type.Number({ exclusiveMinimum: 0, maximum: 1 })),
    dry_run: OrNull(Type.Boolean()),
    admission: OrNull(Type.Union([Type.Literal('assigned'), Type.Literal('open')])),
    // What clients of an open session do to their updates before they upload them.
    proximal_mu: OrNull(Type.Number({ minimum: 0, maximum: 1_000_000 })),
    clip_norm: OrNull(Type.Number({ exclusiveMinimum: 0 })),
    filters: OrNull(Type.Array(Type.Record(Type.String(), Type.Unknown()), { maxItems: 20 })),
    // Sent by the published clients.
    group: OrNull(Name),
    min_devices: OrNull(Type.Integer({ minimum: 1, maximum: 1_000_000 })),
    privacy: OrNull(Type.String()),
    epsilon: OrNull(Type.Number()),
  },
  { additionalProperties: false },
);
export type SessionBody = Static<typeof SessionBody>;

/** Everything that was asked for, with defaults filled in; kept with the session. */
export interface SessionConfig {
  readonly strategy: string;
  readonly strategyOptions: Readonly<Record<string, unknown>>;
  readonly rounds: number;
  readonly minUpdates: number;
  readonly overSelectionRatio: number;
  /** null: the latest version, or fresh weights where there is none. `initial`: fresh weights in any case. */
  readonly baseVersion: string | null;
  /** In canonical form. */
  readonly newVersion: string | null;
  readonly publish: boolean;
  readonly updateFormat: 'delta' | 'weights';
  readonly architecture: Architecture | null;
  /** Named by the caller; null: the target decides between binary and multiclass. */
  readonly output: Architecture['output']['kind'] | null;
  readonly target: string | null;
  /** Inputs of a model that is trained without a table. */
  readonly inputWidth: number;
  readonly dataSet: string;
  readonly missingMarkers: Readonly<Record<string, readonly (string | number)[]>>;
  readonly exclude: readonly string[];
  /** Absent: none. */
  readonly hints?: FeatureHints;
  /** `confirmed`, or a proposal's id. Absent: `auto`. */
  readonly featureSpec?: string;
  readonly local: LocalOptions;
  /** What of the model stays at the sites. Absent: nothing. */
  readonly personalization?: Personalization;
  /** `tfjs`, `echo`, or what the sites call code of their own. */
  readonly trainer: string;
  readonly seed: number;
  readonly roundDeadlineSeconds: number;
  readonly noProgressSeconds: number;
  readonly holdout: { readonly shareRatio: number; readonly entityColumn: string | null };
  readonly selector: Readonly<Record<string, string>>;
  readonly maxRoundRetries: number;
  /** L2 norm of the update minus its base; null: no limit. */
  readonly maxUpdateNormL2: number | null;
  /** Largest share of the sum of weights that one device may have. */
  readonly maxShareRatio: number;
  readonly dryRun: boolean;
  /** Absent: `assigned`. */
  readonly admission?: 'assigned' | 'open';
  /** Open admission: what clients are told to do with their updates. */
  readonly clientRules?: ClientRules;
}

/** Named and numbered as clients read them. */
export interface ClientRules {
  readonly proximalMu: number;
  /** Per tensor; null: no clipping. */
  readonly clipNormL2: number | null;
  readonly filters: readonly Readonly<Record<string, unknown>>[];
}

/** What a request names in the registry; looked up by the caller. */
export interface SessionReferences {
  /** Identifier or name. */
  readonly model: string;
  /** Identifier or name; undefined: the organization's default. */
  readonly federation: string | undefined;
  /** Where there is no such federation, one of this name is made with the session. */
  readonly mayMakeFederation: boolean;
}

export const SESSION_DEFAULTS = {
  rounds: 10,
  minUpdates: 1,
  overSelectionRatio: 1,
  updateFormat: 'delta',
  inputWidth: 16,
  trainer: 'tfjs',
  roundDeadlineSeconds: 3_600,
  noProgressSeconds: 60,
  holdoutShareRatio: 0.2,
  maxRoundRetries: 2,
  maxShareRatio: 1,
} as const;

/**
 * Checks the body of a session request and fills in {@link SESSION_DEFAULTS}.
 *
 * @param randomSeed for a request that names no seed
 * @throws `invalid_input` naming the field, its value and its limits; `training_not_supported` for privacy modes
 */
export function parseSessionConfig(
  body: unknown,
  randomSeed = 0,
): {
  config: SessionConfig;
  references: SessionReferences;
} {
  const sent = checkBody(body);
  const given = { ...sent, seed: sent.seed ?? randomSeed };
  const model = given.model_id ?? given.model;
  if (model == null)
    throw new OctomilError('invalid_input', 'model_id is missing: name the model to train (model_id or model)');
  if (given.privacy != null && given.privacy !== 'none') {
    throw new OctomilError('training_not_supported', `privacy = "${given.privacy}" is not supported yet; leave it out`);
  }
  if (given.epsilon != null) {
    // Training on without the noise that was asked for would be worse than not training.
    throw new OctomilError(
      'training_not_supported',
      `epsilon = ${given.epsilon} asks for differential privacy, which is not supported yet; leave it out`,
    );
  }
  const strategy = given.strategy ?? given.algorithm ?? DEFAULT_STRATEGY;
  if (given.max_update_norm != null && given.update_format === 'weights') {
    throw new OctomilError(
      'invalid_input',
      'max_update_norm limits how far an update moves, which needs update_format = "delta"; leave one of them out',
    );
  }
  const prepared = strategyByName(strategy, camelCase(given.strategy_options ?? {}));
  requireReachable(given);
  if (given.target != null) parseTargetRule(given.target);
  const group = given.group == null || given.group === 'default' ? {} : { group: given.group };
  return {
    references: {
      model,
      federation: given.federation ?? undefined,
      mayMakeFederation: given.federation == null || given.create_federation === true,
    },
    config: {
      strategy: prepared.name,
      strategyOptions: prepared.options,
      rounds: given.rounds ?? SESSION_DEFAULTS.rounds,
      minUpdates: Math.max(given.min_updates ?? SESSION_DEFAULTS.minUpdates, given.min_devices ?? 1),
      overSelectionRatio: given.over_selection ?? SESSION_DEFAULTS.overSelectionRatio,
      baseVersion: given.base_version ?? null,
      newVersion: given.new_version == null ? null : canonicalVersion(given.new_version),
      publish: given.publish ?? true,
      updateFormat: given.update_format ?? SESSION_DEFAULTS.updateFormat,
      architecture: given.architecture == null ? null : parseArchitecture(given.architecture),
      output: outputOf(given.architecture),
      target: given.target ?? null,
      inputWidth: given.input_width ?? SESSION_DEFAULTS.inputWidth,
      dataSet: given.data_set ?? '',
      missingMarkers: given.missing_markers ?? {},
      exclude: given.exclude ?? [],
      ...featureWishes(given),
      local: localOptions(given, prepared.options['proximalMu'], prepared.controlled),
      trainer: given.trainer ?? SESSION_DEFAULTS.trainer,
      seed: given.seed,
      roundDeadlineSeconds: given.round_deadline_seconds ?? SESSION_DEFAULTS.roundDeadlineSeconds,
      noProgressSeconds: given.no_progress_seconds ?? SESSION_DEFAULTS.noProgressSeconds,
      holdout: {
        shareRatio: given.holdout?.share ?? SESSION_DEFAULTS.holdoutShareRatio,
        entityColumn: given.holdout?.entity_column ?? null,
      },
      selector: { ...group, ...given.selector },
      maxRoundRetries: given.max_round_retries ?? SESSION_DEFAULTS.maxRoundRetries,
      maxUpdateNormL2: given.max_update_norm ?? null,
      maxShareRatio: given.max_share ?? SESSION_DEFAULTS.maxShareRatio,
      dryRun: given.dry_run ?? false,
      ...personalization(given),
      ...(given.admission === 'open' ? { admission: 'open', clientRules: clientRules(given, prepared.options) } : {}),
    },
  };
}

/** A round that asks devices finds no more than it looks at; to open ones any number may upload. @throws `invalid_input` */
function requireReachable(given: SessionBody): void {
  if (given.admission === 'open') return;
  for (const field of ['min_updates', 'min_devices'] as const) {
    const value = given[field] ?? 0;
    if (value <= MAX_LOOKED_AT) continue;
    throw new OctomilError(
      'invalid_input',
      `${field} = ${value}: a round asks at most ${MAX_LOOKED_AT} devices; ask for fewer, or use admission = "open"`,
      { details: { field, value } },
    );
  }
}

/** @throws `invalid_input` for hints of which a confirmed spec would take no notice, or that read the target as a feature */
function featureWishes(given: SessionBody): Pick<SessionConfig, 'hints' | 'featureSpec'> {
  const { features, feature_spec: asked, target } = given;
  const hints = features?.hints == null ? undefined : parseHints(features.hints);
  if (hints !== undefined && target != null) refuseTargetHints(hints, parseTargetRule(target).column);
  const agreed = asked == null || asked === 'auto' ? undefined : asked;
  if (agreed !== undefined && hints !== undefined) {
    throw new OctomilError(
      'invalid_input',
      `features.hints say how a spec is made, and feature_spec = "${agreed}" takes one that is made already; leave one of them out`,
      { details: { field: 'features.hints' } },
    );
  }
  return { ...(hints === undefined ? {} : { hints }), ...(agreed === undefined ? {} : { featureSpec: agreed }) };
}

/** Personal parts are trained by this project's trainer at sites that keep them. */
function personalization(given: SessionBody): Pick<SessionConfig, 'personalization'> {
  const wanted = given.personalization;
  if (wanted == null) return {};
  const parsed = parsePersonalization(typeof wanted === 'string' ? wanted : camelCase(wanted));
  if (given.trainer != null && given.trainer !== 'tfjs') {
    throw new OctomilError(
      'training_not_supported',
      `personalization needs the trainer tfjs, not "${given.trainer}": code of a site's own decides itself what stays there; leave one of them out`,
      { details: { field: 'personalization' } },
    );
  }
  if (given.admission === 'open') {
    throw new OctomilError(
      'training_not_supported',
      'personalization needs agents at the sites, which keep their part; clients of an open session do not; leave one of them out',
      { details: { field: 'personalization' } },
    );
  }
  return { personalization: parsed };
}

function clientRules(given: SessionBody, strategyOptions: Readonly<Record<string, unknown>>): ClientRules {
  return {
    proximalMu: given.proximal_mu ?? Number(strategyOptions['proximalMu'] ?? 0),
    clipNormL2: given.clip_norm ?? null,
    filters: given.filters ?? [],
  };
}

/** `v1.2.0` → `1.2.0`, as the registry keeps it: whether it is taken, or was given to the result, is compared by text. */
function canonicalVersion(text: string): string {
  try {
    return parseVersion(text);
  } catch (error) {
    throw new OctomilError('invalid_input', `new_version: ${toOctomilError(error).reason}`, {
      details: { field: 'new_version', value: text },
    });
  }
}

function outputOf(architecture: unknown): SessionConfig['output'] {
  if (typeof architecture !== 'object' || architecture === null || !('output' in architecture)) return null;
  return parseArchitecture(architecture).output.kind;
}

/** The session's seed is the agents' too, and FedProx's μ is part of their loss, unless `local` says otherwise. */
function localOptions(given: SessionBody, strategyMu: unknown, controlled: boolean): LocalOptions {
  const local = camelCase(given.local ?? {});
  const { earlyStop } = local;
  const nested = typeof earlyStop === 'object' && earlyStop !== null && !Array.isArray(earlyStop);
  const options = parseLocalOptions({
    ...(controlled ? { optimizer: 'sgd' } : {}),
    ...(given.seed == null ? {} : { seed: given.seed }),
    ...(strategyMu === undefined ? {} : { proximalMu: strategyMu }),
    ...local,
    ...(nested ? { earlyStop: camelCase(earlyStop as Record<string, unknown>) } : {}),
  });
  // How many rows a step of their own code takes, the sites decide.
  if ((given.trainer ?? SESSION_DEFAULTS.trainer) === SESSION_DEFAULTS.trainer) requireRowsPerStep(options);
  if (options.earlyStop !== undefined && controlled) {
    throw new OctomilError(
      'invalid_input',
      'local.early_stop goes back to the weights of an earlier step, and the control variates of scaffold are of the last one; leave one of them out',
      { details: { field: 'local.early_stop' } },
    );
  }
  if (options.earlyStop !== undefined && given.holdout?.share === 0) {
    throw new OctomilError(
      'invalid_input',
      'local.early_stop is decided on held-out rows, and holdout.share is 0; raise it or leave early_stop out',
      { details: { field: 'local.early_stop' } },
    );
  }
  return options;
}

/** `batch_size` → `batchSize`; null stands for "not given". */
function camelCase(fields: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields)
      .filter(([, value]) => value != null)
      .map(([name, value]) => [name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()), value]),
  );
}

function checkBody(body: unknown): SessionBody {
  if (Value.Check(SessionBody, body)) return body;
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new OctomilError('invalid_input', 'the body must be a JSON object that describes the training session');
  }
  const errors = Value.Errors(SessionBody, body);
  const unknown = Object.keys(body).filter((field) => !Object.hasOwn(SessionBody.properties, field));
  if (unknown.length > 0) {
    throw new OctomilError(
      'invalid_input',
      `unknown field ${unknown.join(', ')}; a session has ${Object.keys(SessionBody.properties).join(', ')}`,
      { details: { field: unknown[0] } },
    );
  }
  // A union with null reports every branch; the last error about "anyOf" or "null" says the least.
  const first =
    errors.find((error) => error.keyword !== 'anyOf' && !error.schemaPath.endsWith('/anyOf/1')) ?? errors[0];
  const path = first?.instancePath.slice(1).replaceAll('/', '.') ?? '';
  const value = path.split('.').reduce<unknown>((at, key) => (at as Record<string, unknown> | undefined)?.[key], body);
  const limits = limitsOf(path);
  throw new OctomilError(
    'invalid_input',
    `${path} = ${JSON.stringify(value)}: ${first?.message ?? 'is not valid'}${limits === '' ? '' : ` (${limits})`}`,
    { details: { field: path, value } },
  );
}

function limitsOf(path: string): string {
  const properties = SessionBody.properties as unknown as Record<
    string,
    { anyOf?: readonly Record<string, unknown>[] }
  >;
  const schema = properties[path]?.anyOf?.[0];
  if (schema === undefined) return '';
  const literals = (schema['anyOf'] as { const?: unknown }[] | undefined)?.map((item) => item.const);
  if (literals?.every((item) => item !== undefined)) return `one of ${literals.join(', ')}`;
  const minimum = schema['minimum'];
  const maximum = schema['maximum'];
  const kind = String(schema['type'] ?? '');
  if (minimum !== undefined && maximum !== undefined) return `${kind} from ${minimum} to ${maximum}`;
  return kind;
}
