import { join } from 'node:path';
import {
  type AgentConfig,
  type DryRun,
  dryRun as doDryRun,
  explainPolicy,
  unenrol as forget,
  loadAgentConfig,
  ownTrainerStates,
  type PolicyExplanation,
  readAudit,
  setPaused,
} from '@octomil/agent';
import { OctomilError } from '@octomil/shared/errors';
import type { Options } from '../program.js';
import { print, table } from '../terminal/output.js';

/** Digests of the site's own training code. @returns 1 when the policy does not allow one */
export async function trainers(options: Options): Promise<number> {
  const states = await ownTrainerStates(configOf(options));
  await print(options['json'], states, async () =>
    states.length === 0
      ? 'The configuration names no trainers: tfjs and echo are built in.'
      : (
          await Promise.all(
            states.map(async ({ trainer, allowed, sha256, files }) => {
              const listed = await table(files, [
                { title: 'File', value: (file) => file.name },
                { title: 'Bytes', value: (file) => file.sizeBytes, align: 'right' },
                { title: 'SHA-256', value: (file) => file.sha256 },
              ]);
              return `${trainer}: ${sha256} (${allowed ? 'allowed' : 'NOT allowed'} by the policy)\n${listed}`;
            }),
          )
        ).join('\n\n'),
  );
  return states.every(({ allowed }) => allowed) ? 0 : 1;
}

/** Explains what the site would answer. @returns 1 for a refusal */
export async function policyCheck(options: Options): Promise<number> {
  const explained = await explainPolicy(
    configOf(options),
    {
      federation: String(options['federation']),
      model: String(options['model']),
      dataSet: textOf(options['dataSet']),
      columns: (options['column'] as string[] | undefined) ?? [],
      nowMs: Date.now(),
    },
    textOf(options['trainer']),
  );
  await print(options['json'], explained, () =>
    explained.allowed
      ? `allowed by rule "${explained.rule}"${explained.columns === null ? '' : `, of columns ${explained.columns.join(', ')} alone`}${limitsText(explained.resources)}`
      : `refused: ${explained.reason}`,
  );
  return explained.allowed ? 0 : 1;
}

function limitsText({ cpuPercent, memoryMb, bandwidthMbit }: PolicyExplanation['resources']): string {
  const limits = [
    ...(cpuPercent === undefined ? [] : [`${cpuPercent} % of the processors (its own code)`]),
    ...(memoryMb === undefined ? [] : [`${memoryMb} MB of memory`]),
    ...(bandwidthMbit === undefined ? [] : [`${bandwidthMbit} Mbit/s of transfers`]),
  ];
  return limits.length === 0 ? '' : `\nwithin ${limits.join(', ')}`;
}

/** Prints what a round would send, and sends nothing. */
export async function dryRun(options: Options): Promise<void> {
  const report = await doDryRun(configOf(options), {
    federation: String(options['federation']),
    model: String(options['model']),
    target: String(options['target']),
    dataSet: textOf(options['dataSet']),
    architecture: textOf(options['architecture']),
  });
  await print(options['json'], report, () => dryRunText(report));
}

function dryRunText({ rule, siteSummary, statistics, update }: DryRun): string {
  const shown = (value: unknown): string => JSON.stringify(value, null, 2);
  return [
    `Allowed by rule "${rule}". This would leave; nothing did.`,
    `\nOn connecting:\n${shown(siteSummary)}`,
    `\nBefore the first round (${JSON.stringify(statistics).length} bytes):\n${shown(statistics)}`,
    `\nEach round: an update of ${update.sizeBytes} bytes, the number of rows trained on (${update.sampleCount}), and\n${shown(update.metrics)}`,
  ].join('\n');
}

/** What left this site. */
export async function audit(options: Options): Promise<void> {
  const since = textOf(options['since']);
  const sinceMs = since === undefined ? undefined : Date.parse(since);
  if (Number.isNaN(sinceMs)) {
    throw new OctomilError(
      'invalid_input',
      `--since ${since} is no time; write it like 2026-03-01 or 2026-03-01T10:00:00Z`,
    );
  }
  const records = await readAudit(join(configOf(options).stateDir, 'audit.jsonl'), {
    kind: textOf(options['kind']),
    federation: textOf(options['federation']),
    model: textOf(options['model']),
    dataSet: textOf(options['dataSet']),
    sinceMs,
    limit: options['limit'] as number | undefined,
  });
  await print(options['json'], records, () =>
    table(
      records,
      [
        { title: 'When', value: (record) => record.at },
        { title: 'What', value: (record) => record.kind },
        { title: 'Federation', value: (record) => record.federation },
        { title: 'Model', value: (record) => record.model },
        { title: 'Round', value: (record) => record.round, align: 'right' },
        { title: 'Data set', value: (record) => record.dataSet },
        { title: 'Rule', value: (record) => record.rule },
        { title: 'Bytes', value: (record) => record.sizeBytes, align: 'right' },
        { title: 'Rows', value: (record) => record.sampleCount, align: 'right' },
        { title: 'SHA-256', value: (record) => record.sha256?.slice(0, 12) },
      ],
      ['kind', 'federation', 'model', 'dataSet', 'since'].some((name) => options[name] !== undefined)
        ? 'Nothing that left this site is of this sort.'
        : 'Nothing has left this site.',
    ),
  );
}

/** Refuses every assignment from now on, or takes them again. */
export async function pause(options: Options, paused: boolean): Promise<void> {
  const { stateDir, deviceIdentifier, policy } = configOf(options);
  await setPaused(stateDir, paused);
  const still = !paused && policy.paused === true ? ' by this command, but still by its policy (paused: true)' : '';
  await print(options['json'], { device: deviceIdentifier, paused: paused || policy.paused === true }, () =>
    paused ? `${deviceIdentifier} refuses every assignment` : `${deviceIdentifier} is not paused${still}`,
  );
}

/** Forgets the credential of this site. */
export async function unenrol(options: Options): Promise<void> {
  const { stateDir, deviceIdentifier } = configOf(options);
  const { personalModels } = await forget(stateDir, { personal: options['personal'] === true });
  const kept =
    personalModels === 0
      ? ''
      : `\nPersonal models stay there too (${personalModels}); they go with: octomil agent unenrol --personal`;
  await print(
    options['json'],
    { device: deviceIdentifier, unenrolled: true, personal_models: personalModels },
    () =>
      `${deviceIdentifier} holds no credential any more; its audit log stays in ${stateDir}.${kept}\nThe coordinator's side ends with: octomil devices revoke ${deviceIdentifier}`,
  );
}

const configOf = (options: Options): AgentConfig => loadAgentConfig({ path: String(options['config']) });
const textOf = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined);
