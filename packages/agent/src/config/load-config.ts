import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import type { DataSource } from '@octomil/shared/data';
import { OctomilError } from '@octomil/shared/errors';
import type { TSchema } from 'typebox';
import { Value } from 'typebox/value';
import { parse } from 'yaml';
import type { ConditionRules } from '../conditions/condition-rules.js';
import { parseTimeWindow } from '../conditions/time-window.js';
import type { Policy, PrivacyDemand } from '../policy/policy.js';
import { isLoopback, type PeerAddress, parseCoordinatorAddress } from './address.js';
import type { AgentConfig } from './agent-config.js';
import { placeOfData, placeProblems } from './data-places.js';
import { applyEnvironment } from './environment.js';
import { ownTrainers, trainerProblems } from './own-trainers.js';
import { proxyFromEnvironment } from './proxy.js';
import { type AgentFile, AgentFileSchema, type ConditionRulesFile, type DataSetFile } from './schema.js';

const MIB = 1_048_576;

/** One thing that is wrong: where, the value (secrets left out), and what is allowed. */
interface ConfigProblem {
  readonly path: string;
  readonly message: string;
  readonly value?: unknown;
}

export interface LoadOptions {
  /** YAML file; without it the environment must say everything. */
  readonly path?: string | undefined;
  /** Default: `process.env`. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
}

/**
 * Reads the file, then the environment over it. Relative paths in the file are relative to the file's folder.
 *
 * @throws OctomilError `config_invalid` listing every problem at once, in `details.problems` as well
 */
export function loadAgentConfig(options: LoadOptions): AgentConfig {
  const environment = options.environment ?? process.env;
  const folder = options.path === undefined ? process.cwd() : dirname(resolve(options.path));
  const problems: ConfigProblem[] = [];
  const raw = options.path === undefined ? {} : readYaml(options.path, 'the configuration', problems);
  // What a file lacks that could not be read is not for its owner to add.
  if (problems.length > 0) throw invalid(problems);
  return parseAgentConfig(raw, { folder, environment, problems });
}

interface ParseContext {
  readonly folder: string;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly problems?: ConfigProblem[];
}

/**
 * The same from an object that is already read.
 *
 * @throws OctomilError `config_invalid` listing every problem at once
 */
export function parseAgentConfig(raw: unknown, context: ParseContext): AgentConfig {
  const problems = context.problems ?? [];
  const merged = applyEnvironment(raw, context.environment, problems);
  expandShorthands(merged, context.folder, problems);
  problems.push(...schemaProblems(merged));
  const file = merged as AgentFile;
  if (problems.length === 0) problems.push(...trainerProblems(file.trainers ?? {}));
  problems.push(...dataProblems(merged['data_sets']));
  const coordinator = typeof file.coordinator === 'string' ? readAddress(file.coordinator, problems) : undefined;
  if (coordinator !== undefined) checkPlaintext(coordinator, file, problems);
  if (typeof file.proxy === 'string') checkProxy(file.proxy, problems);
  const enrollmentToken = readToken(file, context.folder, problems);
  checkReadable(file, context.folder, problems);
  if (problems.length > 0 || coordinator === undefined) throw invalid(problems);
  return deepFreeze(build(file, coordinator, enrollmentToken, context));
}

function build(
  file: AgentFile,
  coordinator: PeerAddress,
  enrollmentToken: string | undefined,
  { folder, environment }: ParseContext,
): AgentConfig {
  const at = (path: string): string => resolve(folder, path);
  const { tls = {}, trainer = {}, metrics } = file;
  const policy = buildPolicy(file.policy);
  const { resources = {} } = policy;
  return {
    coordinator,
    deviceIdentifier: file.device_identifier,
    enrollmentToken,
    stateDir: at(file.state_dir),
    dataSets: Object.fromEntries(
      Object.entries(file.data_sets ?? {}).map(([name, source]) => [name, dataSource(source, folder)]),
    ),
    labels: file.labels ?? {},
    policy,
    tls: {
      ...(tls.ca === undefined ? {} : { caPath: at(tls.ca) }),
      ...(tls.certificate === undefined ? {} : { certificatePath: at(tls.certificate) }),
      ...(tls.key === undefined ? {} : { keyPath: at(tls.key) }),
      ...(tls.server_name === undefined ? {} : { serverName: tls.server_name }),
    },
    proxy: proxyFromEnvironment(environment, { url: file.proxy, noProxy: file.no_proxy }),
    insecure: file.insecure ?? false,
    metrics: metrics === undefined ? undefined : { host: metrics.host ?? '127.0.0.1', port: metrics.port },
    logLevel: (file.log_level ?? 'info') as AgentConfig['logLevel'],
    trainer: {
      memoryLimitMb: least(trainer.memory_limit_mb, resources.memoryMb),
      idleMs: (trainer.idle_seconds ?? 300) * 1_000,
      temporaryFolder: resolve(at(file.state_dir), 'trainer'),
    },
    trainers: ownTrainers(file.trainers ?? {}, resources, at),
    conditions: {
      training: conditionRules(file.conditions?.training),
      downloads: conditionRules(file.conditions?.downloads),
      activation: conditionRules(file.conditions?.activation),
    },
    metered: file.conditions?.metered,
    deployableModels: file.deployments?.models,
    sourceCacheBytes: (file.source_cache_mb ?? 16_384) * MIB,
    directDownloads: file.direct_downloads ?? true,
    modelsCacheBytes: (file.models_cache_mb ?? 4_096) * MIB,
    stopGraceMs: (file.stop_grace_seconds ?? 10) * 1_000,
  };
}

function buildPolicy(file: AgentFile['policy']): Policy {
  const { allow = [], max_questions: maxQuestions, paused, code, resources } = file ?? {};
  return {
    allow: allow.map(({ data_sets, min_privacy, hours, ...rule }) => ({
      ...rule,
      dataSets: data_sets,
      ...(hours === undefined ? {} : { hours: hours.map(parseTimeWindow) }),
      ...(min_privacy === undefined ? {} : { minPrivacy: min_privacy as PrivacyDemand }),
    })),
    ...(maxQuestions === undefined ? {} : { maxQuestions }),
    ...(paused === undefined ? {} : { paused }),
    ...(code === undefined ? {} : { code }),
    ...(resources === undefined
      ? {}
      : {
          resources: {
            ...(resources.cpu_percent === undefined ? {} : { cpuPercent: resources.cpu_percent }),
            ...(resources.memory_mb === undefined ? {} : { memoryMb: resources.memory_mb }),
            ...(resources.bandwidth_mbit === undefined ? {} : { bandwidthMbit: resources.bandwidth_mbit }),
          },
        }),
  };
}

function least(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined ? b : b === undefined ? a : Math.min(a, b);
}

function dataProblems(sets: unknown): ConfigProblem[] {
  if (typeof sets !== 'object' || sets === null) return [];
  return Object.entries(sets).flatMap(([name, set]) =>
    typeof set === 'object' && set !== null ? placeProblems(name, set) : [],
  );
}

function dataSource(set: DataSetFile, folder: string): DataSource {
  const { path, files, decimal_separator, thousands_separator, missing_texts, max_unpacked_mb, ...same } = set;
  return {
    path: placeOfData(path, folder),
    ...same,
    ...(files === undefined ? {} : { files: files.map((file) => placeOfData(file, folder)) }),
    ...(decimal_separator === undefined ? {} : { decimalSeparator: decimal_separator }),
    ...(thousands_separator === undefined ? {} : { thousandsSeparator: thousands_separator }),
    ...(missing_texts === undefined ? {} : { missingTexts: missing_texts }),
    ...(max_unpacked_mb === undefined ? {} : { maxUnpackedBytes: max_unpacked_mb * MIB }),
  } as DataSource;
}

function conditionRules(rules: ConditionRulesFile = {}): ConditionRules {
  return {
    ...(rules.min_battery_percent === undefined ? {} : { minBatteryPercent: rules.min_battery_percent }),
    ...(rules.charging === undefined ? {} : { charging: rules.charging }),
    ...(rules.unmetered === undefined ? {} : { unmetered: rules.unmetered }),
    ...(rules.idle === undefined ? {} : { idle: rules.idle }),
    ...(rules.time_window === undefined ? {} : { timeWindows: rules.time_window.map(parseTimeWindow) }),
    ...(rules.min_free_disk_mb === undefined ? {} : { minFreeDiskMb: rules.min_free_disk_mb }),
  };
}

function readYaml(path: string, what: string, problems: ConfigProblem[], at = ''): unknown {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    problems.push({ path: at, message: `${what} ${path} cannot be read (${(error as NodeJS.ErrnoException).code})` });
    return {};
  }
  try {
    return parse(text) ?? {};
  } catch (error) {
    problems.push({
      path: at,
      message: `${what} ${path} is not YAML: ${(error as Error).message.split('\n')[0]?.replace(/:$/, '')}`,
    });
    return {};
  }
}

/** A bare path for a data set, a single time window, and a file for the policy. */
function expandShorthands(file: Record<string, unknown>, folder: string, problems: ConfigProblem[]): void {
  const sets = file['data_sets'];
  if (typeof sets === 'object' && sets !== null && !Array.isArray(sets)) {
    file['data_sets'] = Object.fromEntries(
      Object.entries(sets).map(([name, source]) => [name, typeof source === 'string' ? { path: source } : source]),
    );
  }
  const conditions = file['conditions'];
  if (typeof conditions === 'object' && conditions !== null) {
    for (const rules of Object.values(conditions) as unknown[]) {
      if (typeof rules !== 'object' || rules === null || !('time_window' in rules)) continue;
      if (typeof rules.time_window === 'string') rules.time_window = [rules.time_window];
    }
  }
  const policy = file['policy'];
  if (typeof policy === 'string') {
    file['policy'] = readYaml(resolve(folder, policy), 'the policy file', problems, 'policy');
  }
  const { allow } = (file['policy'] ?? {}) as { readonly allow?: unknown };
  for (const rule of Array.isArray(allow) ? (allow as unknown[]) : []) {
    if (typeof rule !== 'object' || rule === null || !('hours' in rule)) continue;
    if (typeof rule.hours === 'string') rule.hours = [rule.hours];
  }
}

/** Setting by setting: one call over the whole stops after a few errors. */
function schemaProblems(value: Record<string, unknown>): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const properties: Readonly<Record<string, TSchema>> = AgentFileSchema.properties;
  for (const name of Object.keys(value)) {
    if (!Object.hasOwn(properties, name)) problems.push({ path: name, message: 'is not a setting' });
  }
  for (const [name, schema] of Object.entries(properties)) {
    if (value[name] !== undefined) problems.push(...settingProblems(name, schema, value[name]));
    else if (AgentFileSchema.required.some((required) => required === name)) {
      problems.push({ path: name, message: 'is missing' });
    }
  }
  return problems;
}

function settingProblems(name: string, schema: TSchema, value: unknown): ConfigProblem[] {
  const found = new Map<string, ConfigProblem>();
  for (const error of Value.Errors(schema, value)) {
    const inner = error.instancePath.slice(1).replaceAll('/', '.');
    const path = inner === '' ? name : `${name}.${inner}`;
    if (error.keyword === 'required') {
      for (const key of error.params.requiredProperties) {
        found.set(`${path}.${key}`, { path: `${path}.${key}`, message: 'is missing' });
      }
    } else if (error.keyword === 'additionalProperties') {
      for (const key of error.params.additionalProperties) {
        found.set(`${path}.${key}`, { path: `${path}.${key}`, message: 'is not a setting' });
      }
    } else if (!found.has(path) && error.keyword !== 'boolean') {
      const message =
        error.keyword === 'pattern' && /time_window|hours/.test(path)
          ? 'must be a window of local time, such as 22:00-06:00'
          : error.keyword === 'enum'
            ? `must be one of ${error.params.allowedValues.map((allowed) => JSON.stringify(allowed)).join(', ')}`
            : error.message;
      found.set(path, { path, message, ...shownValue(name, valueAt(value, inner)) });
    }
  }
  return [...found.values()];
}

const SECRETS: ReadonlySet<string> = new Set(['enrollment_token', 'proxy']);

/** A URL of data may hold a signature. */
function shownValue(name: string, value: unknown): { readonly value?: unknown } {
  const secret = SECRETS.has(name) || (name === 'data_sets' && JSON.stringify(value)?.includes('://') === true);
  return secret ? {} : { value };
}

function valueAt(value: unknown, path: string): unknown {
  if (path === '') return value;
  return path.split('.').reduce<unknown>((inner, key) => (inner as Record<string, unknown> | undefined)?.[key], value);
}

function readAddress(text: string, problems: ConfigProblem[]): PeerAddress | undefined {
  try {
    return parseCoordinatorAddress(text);
  } catch (error) {
    problems.push({ path: 'coordinator', message: (error as OctomilError).reason });
    return undefined;
  }
}

function checkPlaintext(address: PeerAddress, file: AgentFile, problems: ConfigProblem[]): void {
  if (address.tls || file.insecure === true || isLoopback(address.host)) return;
  problems.push({
    path: 'coordinator',
    message: `plaintext to ${address.host} would show the credential and the updates to the network; use grpcs://, or set insecure: true`,
    value: file.coordinator,
  });
}

function checkProxy(text: string, problems: ConfigProblem[]): void {
  if (URL.canParse(text) && new URL(text).protocol === 'http:') return;
  problems.push({ path: 'proxy', message: 'must be an http:// URL, such as http://proxy.example:3128' });
}

function readToken(file: AgentFile, folder: string, problems: ConfigProblem[]): string | undefined {
  if (typeof file.enrollment_token === 'string') return file.enrollment_token;
  if (typeof file.enrollment_token_file !== 'string') return undefined;
  const path = resolve(folder, file.enrollment_token_file);
  try {
    return readFileSync(path, 'utf8').trim() || undefined;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // The file may be removed after the first enrolment: whether that matters is known when no credential is found.
    if (code === 'ENOENT') return undefined;
    problems.push({ path: 'enrollment_token_file', message: `${path} cannot be read (${code})` });
    return undefined;
  }
}

function checkReadable(file: AgentFile, folder: string, problems: ConfigProblem[]): void {
  for (const name of ['ca', 'certificate', 'key'] as const) {
    const path = (file.tls as Record<string, unknown> | undefined)?.[name];
    if (typeof path !== 'string') continue;
    try {
      readFileSync(resolve(folder, path));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      problems.push({ path: `tls.${name}`, message: `the file cannot be read (${code})`, value: path });
    }
  }
  const { certificate, key } = file.tls ?? {};
  if ((certificate === undefined) !== (key === undefined)) {
    problems.push({ path: 'tls', message: 'certificate and key belong together: give both or neither' });
  }
}

function invalid(problems: readonly ConfigProblem[]): OctomilError {
  const lines = problems.map(({ path, message, value }) => {
    const shown = value === undefined ? '' : ` = ${JSON.stringify(value).slice(0, 80)}`;
    return `${path}${shown}${path === '' ? '' : ': '}${message}`;
  });
  const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`;
  return new OctomilError('config_invalid', `the agent's configuration has ${count}:\n  ${lines.join('\n  ')}`, {
    details: { problems },
  });
}

function deepFreeze<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) deepFreeze(inner);
  }
  return value;
}
